package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"softether-go/pkg/config"
	"softether-go/pkg/privnet"
)

// The names of what softether-go run starts, see package privnet. Nobody types them.
const (
	initCommand = "run-init"
	vpnCommand  = "run-vpn"
)

// vpnStopTime is how long the VPN process may take to say goodbye.
const vpnStopTime = 5 * time.Second

func innerCommands() []command {
	return []command{{name: initCommand, run: runInit}, {name: vpnCommand, run: runVPN}}
}

// ownSignals reports whether a command sees to signals itself.
func ownSignals(args []string) bool {
	return len(args) > 0 && (args[0] == "run" || args[0] == initCommand)
}

// runCommand runs a command with a network of its own. This process is the front.
func runCommand(_ context.Context, args []string, t terminal) error {
	if len(args) == 1 && strings.TrimLeft(args[0], "-") == "print-apparmor-profile" {
		return printAppArmorProfile(t)
	}
	signals := make(chan os.Signal, 16)
	defer notify(signals)()
	f, err := newFront(args, t)
	if err != nil {
		return err
	}
	defer f.stopVPN()
	defer f.room.Close()
	return f.wait(signals)
}

// printAppArmorProfile prints what lets this very program make namespaces on Ubuntu.
func printAppArmorProfile(t terminal) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = io.WriteString(t.out, privnet.AppArmorProfile(path))
	return err
}

// cutCommand separates our flags from the command.
func cutCommand(args []string) (flags, argv []string, err error) {
	i := slices.Index(args, "--")
	if i >= 0 && i+1 < len(args) {
		return args[:i], args[i+1:], nil
	}
	if i < 0 && slices.ContainsFunc(args, isEnterFlag) {
		return args, nil, nil
	}
	if slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "-help" || a == "--help" }) {
		return nil, nil, config.ErrHelp
	}
	return nil, nil, usageError{errors.New("run: no command: give it after the flags and --, as in softether-go run -host NAME -user NAME -- curl http://files.corp/")}
}

// isEnterFlag reports whether an argument names a namespace to use in place of a command's.
func isEnterFlag(arg string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.HasPrefix(arg, "-") && (name == "pid" || name == "netns")
}

// findCommand returns the path of a program as a shell finds it.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil || errors.Is(err, exec.ErrDot) && strings.Contains(name, "/"):
		return path, nil
	case errors.Is(err, fs.ErrPermission):
		return "", commandExit{126, fmt.Errorf("run: %w", err)}
	default:
		return "", commandExit{127, fmt.Errorf("run: %w", err)}
	}
}

// A place is where the command runs.
type place interface {
	Signal(syscall.Signal) error // sends it to the command, if that runs
	Close()                      // ends what runs there
}

// A front is what the user's shell sees.
type front struct {
	log     *slog.Logger
	room    place
	events  <-chan privnet.Event
	vpn     *exec.Cmd       // nil if the session is another command's
	control *privnet.Socket // to the VPN process; its end tells that to stop
	vpnDone chan error      // one value, when the VPN process does nothing for us any more
	shared  bool            // the VPN process serves others too
	linked  bool            // it has the link

	enters  bool // there is no command
	started bool
	exit    *privnet.Exit // of the command, once it has ended
}

// newFront starts what there has to be before the command. What cannot work here
// fails before the server hears of us.
func newFront(args []string, t terminal) (*front, error) {
	flags, argv, err := cutCommand(args)
	if err != nil {
		return nil, err
	}
	path := ""
	if argv != nil {
		if path, err = findCommand(argv[0]); err != nil {
			return nil, err
		}
	}
	cfg, err := loadRunConfig(flags, t)
	if err != nil {
		return nil, err
	}
	if cfg.Run.Enters() == (argv != nil) {
		return nil, usageError{errors.New("run: give a command after --, or -pid or -netns, and not both")}
	}
	f := &front{log: newLogger(cfg.Log, t), vpnDone: make(chan error, 1), shared: cfg.Run.Share+cfg.Run.Attach != ""}
	reply, err := f.reachVPN(cfg)
	if err != nil {
		return nil, err
	}
	room, err := privnet.Start(privnet.Config{
		Spec:    privnet.Spec{MAC: reply.MAC, IPv6: !cfg.Address.NoIPv6, Capture: cfg.Run.Capture, Enters: cfg.Run.Enters()},
		Program: []string{os.Args[0], initCommand},
		Path:    path, Args: argv, PID: cfg.Run.PID, NetNS: cfg.Run.NetNS,
	})
	if cfg.Run.ProxyEnv && errors.Is(err, privnet.ErrForbidden) {
		f.log.Warn("the command is told of proxies, and what it does not send by them goes beside the VPN", "cause", err)
		f.useProxies(path, argv)
		return f, nil
	}
	if err != nil {
		f.stopVPN()
		return nil, fmt.Errorf("run: %w", err)
	}
	defer room.Link.Close()
	f.room, f.events, f.linked, f.enters = room, room.Events, true, cfg.Run.Enters()
	if cfg.Run.PID != 0 {
		go closeWith(cfg.Run.PID, room)
	}
	if err := f.control.Send(vpnOrder{}, room.Link); err != nil {
		f.log.Debug("the VPN process is gone", "cause", err) // it tells why by its end
	}
	return f, nil
}

func loadRunConfig(flags []string, t terminal) (config.Config, error) {
	src := config.Source{Run: true}
	if term.IsTerminal(int(t.in.Fd())) {
		src.Prompt = t.askPassword
	}
	cfg, err := config.Load(flags, src)
	if err == nil && src.Prompt != nil {
		err = t.askPassphrase(&cfg)
	}
	return cfg, badConfig(err)
}

// reachVPN connects to the VPN process that is to serve the command, and starts it unless
// the session is to be one that there is already.
func (f *front) reachVPN(cfg config.Config) (vpnReply, error) {
	if !f.shared {
		return f.startVPN(cfg)
	}
	path, err := shareSocket(cfg.Run.Share + cfg.Run.Attach) // one of them
	if err != nil {
		return vpnReply{}, fmt.Errorf("run: %w", err)
	}
	unlock, err := lockShare(path)
	if err != nil {
		return vpnReply{}, fmt.Errorf("run: %w", err)
	}
	defer unlock()
	f.control, err = privnet.Connect(path)
	switch {
	case err == nil:
		reply, err := f.order(cfg)
		if err == nil {
			go f.listen()
		}
		return reply, err
	case cfg.Run.Attach != "":
		return vpnReply{}, fmt.Errorf("run: there is no session %q to attach to: start it with softether-go run -share %[1]s", cfg.Run.Attach)
	}
	return f.startVPN(cfg)
}

// order tells the VPN process what to do and returns its answer.
func (f *front) order(cfg config.Config) (r vpnReply, err error) {
	if err = f.control.Send(newVPNOrder(cfg)); err == nil {
		_, err = f.control.Receive(&r)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("run: the VPN process does not answer: %w", err)
	case r.Error != "":
		err = r.failure()
	default:
		return r, nil
	}
	f.control.Close()
	return r, err
}

// listen waits for the end of what a VPN process does for us that is not our child.
func (f *front) listen() {
	for {
		var r vpnReply
		_, err := f.control.Receive(&r)
		switch {
		case err != nil:
			f.vpnDone <- errors.New("run: the process that holds the shared session has ended")
		case r.Note != "":
			f.log.Warn(r.Note)
			continue
		default:
			f.vpnDone <- r.failure()
		}
		return
	}
}

// startVPN starts the process that holds the session. It has none of the descriptors
// that the command inherits but for standard error, and is in a session of its own, where
// no terminal reaches it.
func (f *front) startVPN(cfg config.Config) (vpnReply, error) {
	control, theirs, err := privnet.Pair()
	if err != nil {
		return vpnReply{}, err
	}
	defer theirs.Close()
	if f.control, err = privnet.NewSocket(control); err != nil {
		return vpnReply{}, err
	}
	f.vpn = &exec.Cmd{Path: "/proc/self/exe", Args: []string{os.Args[0], vpnCommand}, Stderr: os.Stderr,
		ExtraFiles: []*os.File{theirs}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	restore := withholdDescriptors()
	err = f.vpn.Start()
	restore()
	if err != nil {
		f.control.Close()
		return vpnReply{}, fmt.Errorf("run: start the VPN process: %w", err)
	}
	theirs.Close()
	reply, err := f.order(cfg)
	if err != nil {
		if end := f.vpn.Wait(); end != nil { // it has said why
			err = vpnEnd(end)
		}
		return reply, err
	}
	if f.shared { // it may outlive us
		go f.listen()
		return reply, nil
	}
	go func() { f.vpnDone <- vpnEnd(f.vpn.Wait()) }()
	return reply, nil
}

// withholdDescriptors keeps the next child from inheriting what our parent had us
// inherit, until restore is called.
func withholdDescriptors() (restore func()) {
	var inherited []int
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return func() {}
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			inherited = append(inherited, fd)
			unix.CloseOnExec(fd)
		}
	}
	return func() {
		for _, fd := range inherited {
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0) // it was ours to change a moment ago
		}
	}
}

// stopVPN waits until the VPN process, which sees that the namespace ends, has given the
// address back and said goodbye. It returns how that ended.
func (f *front) stopVPN() (how error) {
	defer f.control.Close()
	if !f.linked {
		f.control.Close() // there is no namespace to see the end of
	}
	select {
	case how = <-f.vpnDone:
	case <-time.After(vpnStopTime):
		f.control.Close()
		if !f.shared { // else it serves others
			f.log.Warn("the VPN process does not stop, so it is killed")
			_ = f.vpn.Process.Kill() // it may have ended just now
		}
		how = <-f.vpnDone
	}
	f.vpnDone <- how // for who asks next
	return how
}

// wait accompanies the command to its end, and all that it leaves behind to theirs.
func (f *front) wait(signals <-chan os.Signal) error {
	vpnDone := f.vpnDone
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				return f.ended()
			}
			f.note(e)
		case s := <-signals:
			if err := f.signal(s.(syscall.Signal)); err != nil {
				return err
			}
		case err := <-vpnDone:
			f.vpnDone <- err // for who asks next
			vpnDone = nil
			if !f.started {
				return err
			}
			if f.exit == nil {
				f.log.Error("the VPN process has ended, so the command has no network any more")
			}
		}
	}
}

// vpnEnd is what the end of the VPN process means to a command that has not
// started. The process has said why.
func vpnEnd(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() && exit.ExitCode() != exitOK {
		return commandExit{code: exit.ExitCode()}
	}
	if err == nil {
		return errors.New("run: the VPN process has ended before the command could start")
	}
	return fmt.Errorf("run: the VPN process has ended before the command could start: %w", err)
}

// ended is the outcome when nothing runs in the namespace any more.
func (f *front) ended() error {
	switch {
	case f.exit == nil && !f.started: // for want of a VPN process
		return f.stopVPN()
	case f.enters:
		return nil
	case f.exit == nil:
		return errors.New("run: the command's first process was killed, and the command with it")
	case f.exit.Why != "":
		return commandExit{f.exit.Code, errors.New("run: " + f.exit.Why)}
	}
	return commandExit{code: f.exit.Code}
}

// note takes note of what became of the command.
func (f *front) note(e privnet.Event) {
	switch {
	case e.Started:
		f.started = true
		if !f.enters {
			releaseStreams()
		}
	case e.Servers != nil:
		f.log.Warn("the namespace's files are not ours: have it use these name servers of the VPN", "servers", e.Servers)
	case e.Exited != nil:
		f.exit = e.Exited
	case e.Stopped != 0:
		// For the shell to see. It goes on behind this call, when the shell lets it.
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
}

// closeWith leaves a namespace when a process ends, which we would keep alive otherwise.
func closeWith(pid int, room *privnet.Room) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
	}
	room.Close() // also if it has ended before
}

// releaseStreams gives up the command's input and output: a reader at the other end of a
// pipe is to see the end when the command closes it. Errors are also ours to report.
func releaseStreams() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	raw, err := null.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.Dup3(int(fd), 0, 0)
		_ = unix.Dup3(int(fd), 1, 0)
	})
}
