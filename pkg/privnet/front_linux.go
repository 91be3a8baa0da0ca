package privnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Config says how to start init.
type Config struct {
	Spec
	// Program is the start of the command line that makes this program call Inside.
	// The numbers of two descriptors follow, the link's and the front's, and then the
	// command's path and its arguments from the zeroth on.
	Program []string
	Path    string   // of the command; empty with Enters, which runs none
	Args    []string // with the zeroth
	PID     int      // with Enters: a process in the namespace
	NetNS   string   // or else the namespace's path
}

// A Room is the front's view of a namespace. Its methods may be called at once.
type Room struct {
	Link   *os.File     // for the VPN process; whoever passed it on closes it
	Events <-chan Event // closed when init has ended

	cmd   *exec.Cmd
	front *Socket
}

// initCaps are what init needs in its namespaces: for the network, for mounts, to capture
// frames and write to interfaces, and to look into processes.
var initCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW}

// Start makes the namespaces and waits until init has made everything in them. The
// command starts when the VPN process has applied a configuration. Descriptors that
// this process inherited, init and the command inherit too. An error names the cause
// and what to do.
func Start(cfg Config) (*Room, error) {
	if err := checkTUN(); err != nil {
		return nil, err
	}
	link, theirLink, err := Pair()
	if err != nil {
		return nil, err
	}
	defer theirLink.Close()
	own, theirs, err := Pair()
	if err != nil {
		link.Close()
		return nil, err
	}
	defer theirs.Close()
	r := &Room{Link: link}
	if r.front, err = NewSocket(own); err != nil {
		link.Close()
		return nil, err
	}
	if err := r.start(cfg, theirLink, theirs); err != nil {
		r.front.Close()
		link.Close()
		return nil, explain(err)
	}
	theirLink.Close() // else we would not see the end of init
	theirs.Close()
	return r, r.awaitReady()
}

// start starts init. Its two descriptors keep their numbers, as those that it inherits
// from our parent may have any.
func (r *Room) start(cfg Config, link, front *os.File) error {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer exe.Close()
	return withDescriptors([]*os.File{link, front, exe}, nil, func(fds []int) error {
		args := append([]string{}, cfg.Program...)
		args = append(args, strconv.Itoa(fds[0]), strconv.Itoa(fds[1]), cfg.Path)
		r.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: append(args, cfg.Args...),
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		if cfg.Enters {
			if err := cfg.enter(r.cmd, fds[2]); err != nil {
				return err
			}
		} else {
			fds = fds[:2]
			r.cmd.SysProcAttr = attributes()
		}
		if err := startInheriting(r.cmd, fds...); err != nil {
			return err
		}
		return r.front.Send(order{Spec: &cfg.Spec})
	})
}

// enter has cmd started in the namespace, by nsenter(1): a process with threads, as any in
// Go, cannot enter a user namespace.
func (c Config) enter(cmd *exec.Cmd, exe int) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("%w; it enters the namespace: install util-linux", err)
	}
	args := []string{"nsenter"}
	switch {
	case c.PID == 0:
		args = append(args, "--net="+c.NetNS)
	case mayWithout():
		args = append(args, "--net=/proc/"+strconv.Itoa(c.PID)+"/ns/net")
	default:
		args = append(args, "--target="+strconv.Itoa(c.PID), "--user", "--net", "--preserve-credentials")
	}
	// By a descriptor: in there, our /proc/PID/exe is not for it to look at.
	args = append(args, "--", "/proc/self/fd/"+strconv.Itoa(exe))
	cmd.Path, cmd.Args = nsenter, append(args, cmd.Args[1:]...)
	return nil
}

// attributes are those of a process in namespaces of its own.
func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if mayWithout() {
		return a
	}
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	a.AmbientCaps = initCaps // else it would lose them when the program is loaded
	return a
}

// mayWithout reports whether we may make namespaces without a user namespace.
func mayWithout() bool {
	have, err := capabilities()
	const need = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_RAW
	return err == nil && os.Geteuid() == 0 && have&need == need
}

// capabilities returns the effective ones of the calling thread.
func capabilities() (uint64, error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&head, &data[0])
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), err
}

// startInheriting starts cmd with some of our descriptors under the same numbers.
func startInheriting(cmd *exec.Cmd, fds ...int) error {
	// What Pdeathsig and namespaces mean depends on the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
		defer unix.CloseOnExec(fd)
	}
	return cmd.Start()
}

// forbidden is an ErrForbidden that init has put in words already.
type forbidden string

func (f forbidden) Error() string { return string(f) }

func (forbidden) Unwrap() error { return ErrForbidden }

// awaitReady waits for init's word and passes its further words on.
func (r *Room) awaitReady() error {
	var first Event
	_, err := r.front.Receive(&first)
	switch {
	case err != nil:
		err = fmt.Errorf("the first process in the namespace ended: %w", errors.Join(err, r.cmd.Wait()))
	case first.Failed != "" && first.Forbidden:
		err = forbidden(first.Failed)
	case first.Failed != "":
		err = errors.New(first.Failed)
	}
	if err != nil {
		r.Close()
		r.Link.Close()
		return err
	}
	events := make(chan Event, 16)
	r.Events = events
	go func() {
		defer close(events)
		for {
			var e Event
			if _, err := r.front.Receive(&e); err != nil {
				_ = r.cmd.Wait() // its word was the Exited before
				return
			}
			events <- e
		}
	}()
	return nil
}

// Signal sends a signal to the command, if it runs.
func (r *Room) Signal(s syscall.Signal) error { return r.front.Send(order{Signal: int(s)}) }

// Close kills what runs in the namespace.
func (r *Room) Close() { r.front.Close() }
