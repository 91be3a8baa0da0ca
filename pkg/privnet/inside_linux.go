package privnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
	"softether-go/pkg/netcfg/host"
	"softether-go/pkg/tap"
)

// interfaceName is what the command sees.
const interfaceName = "vpn0"

// goodbyeTime bounds the wait for the VPN process at the end.
const goodbyeTime = 3 * time.Second

// dialTime bounds a connection to a server inside, which is on this very machine.
const dialTime = 5 * time.Second

// A Command is what init starts.
type Command struct {
	Path string
	Args []string // with the zeroth
	Env  []string
}

// Inside is init: it makes everything in the namespaces that this process is the first
// of, starts the command and returns when the last process that the command left has
// ended. It takes over the two descriptors. What it has to say it says to
// the front; an error is for when that cannot be. It is called once, by a process that
// does nothing else.
func Inside(link, front int, c Command) error {
	runtime.LockOSThread() // capabilities, and what Pdeathsig follows, are the thread's
	unix.CloseOnExec(link)
	unix.CloseOnExec(front)
	i := &inside{command: c, start: make(chan struct{})}
	var err error
	if i.front, err = NewSocket(os.NewFile(uintptr(front), "front")); err != nil {
		return err
	}
	defer i.front.Close()
	if i.link, err = NewSocket(os.NewFile(uintptr(link), "link")); err != nil {
		return err
	}
	defer i.link.Close()
	i.group.catch()
	defer i.group.release()
	var o order
	if _, err := i.front.Receive(&o); err != nil {
		return err
	}
	if o.Spec == nil {
		return errors.New("the first order has no spec")
	}
	i.spec = *o.Spec
	if err := i.make(); err != nil {
		err = explain(err)
		return i.front.Send(Event{Failed: err.Error(), Forbidden: errors.Is(err, ErrForbidden)})
	}
	return i.run()
}

// inside is the state of init.
type inside struct {
	command     Command
	spec        Spec
	link, front *Socket
	stack       *host.Private
	files       *files
	group       groupSignals

	once  sync.Once
	start chan struct{} // closed when the network is ready

	mu    sync.Mutex // guards pid
	pid   int        // of the command; 0 before it runs and after
	ended bool       // the front is gone
}

// make makes the interface and the files, and hands the interface over.
func (i *inside) make() error {
	if err := dropInheritable(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt processes: %w", err)
	}
	device, err := tap.Open(tap.Config{Name: interfaceName, MAC: i.spec.MAC})
	if err != nil {
		return err
	}
	defer device.Close()
	if i.stack, err = host.OpenPrivate(interfaceName, i.spec.IPv6, nil); err != nil {
		return err
	}
	if i.spec.Enters {
		out, err := i.stack.HasDefaultRoute()
		if err == nil && out {
			err = errors.New("that network has a way out already, a default route: give it to one without, such as of a container with --network none")
		}
		if err != nil {
			return err
		}
	} else if i.files, err = makeFiles(); err != nil {
		return err
	}
	file, h, err := device.Handover()
	if err != nil {
		return err
	}
	defer file.Close()
	return i.link.Send(hello{h}, file)
}

// dropInheritable keeps the calling thread's children from inheriting capabilities.
// Its own stay as they are.
func dropInheritable() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&head, &data[0])
}

// run serves both sockets, and the command when it is time.
func (i *inside) run() error {
	if i.files != nil {
		defer i.files.watch()()
	}
	linkEnded, frontEnded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(linkEnded)
		i.serveLink()
	}()
	go func() {
		defer close(frontEnded)
		i.serveFront()
	}()
	if err := i.front.Send(Event{Ready: true}); err != nil {
		return err
	}
	select {
	case <-i.start:
	case <-linkEnded:
		return nil // the front knows why
	case <-frontEnded:
		return nil
	}
	if i.spec.Enters {
		_ = i.front.Send(Event{Started: true}) // a front that is gone ends us
		select {
		case <-linkEnded:
		case <-frontEnded:
		}
		return nil
	}
	err := i.supervise()
	// The interface is to last until the VPN process has given its address back.
	_ = i.link.c.CloseWrite()
	select {
	case <-linkEnded:
	case <-time.After(goodbyeTime):
	}
	return err
}

// serveLink does what the VPN process asks for.
func (i *inside) serveLink() {
	for {
		var r request
		files, err := i.link.Receive(&r)
		closeAll(files)
		if err != nil {
			return
		}
		if r.Dial != "" {
			go i.dial(r)
			continue
		}
		a := answer{Seq: r.Seq}
		if r.Ready {
			i.once.Do(func() { close(i.start) })
		} else if err := i.apply(r); err != nil {
			a.Error = err.Error()
		}
		if i.link.Send(a) != nil {
			return
		}
	}
}

// apply makes the network as a request says.
func (i *inside) apply(r request) error {
	if r.Apply == nil {
		return errors.New("an unknown request")
	}
	if err := i.stack.Apply(context.Background(), *r.Apply); err != nil {
		return err
	}
	if r.Apply.IsZero() {
		return nil // name servers nobody can reach are as good as none
	}
	return i.setDNS(r.Apply.DNS)
}

// setDNS gives the command its name servers, or tells of them where files are not ours.
func (i *inside) setDNS(d netcfg.DNS) error {
	if i.files != nil {
		return i.files.setDNS(d)
	}
	var servers []string
	for _, s := range d.Servers {
		servers = append(servers, scoped(s).String())
	}
	if len(servers) > 0 {
		_ = i.front.Send(Event{Servers: servers}) // a front that is gone ends us
	}
	return nil
}

// dial connects to a server inside and passes the connection on.
func (i *inside) dial(r request) {
	c, err := dialLoopback(r.Dial)
	if err != nil {
		_ = i.link.Send(answer{Seq: r.Seq, Error: err.Error()}) // if the link has ended nobody waits
		return
	}
	defer c.Close()
	file, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		_ = i.link.Send(answer{Seq: r.Seq, Error: err.Error()})
		return
	}
	defer file.Close()
	_ = i.link.Send(answer{Seq: r.Seq}, file)
}

// dialLoopback connects to a port, as tcp/80, at 127.0.0.1 or else ::1.
func dialLoopback(port string) (net.Conn, error) {
	network, number, err := splitPort(port)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTime}
	c, err := d.Dial(network, net.JoinHostPort("127.0.0.1", number))
	if err == nil || network == "udp" {
		return c, err
	}
	if c6, err6 := d.Dial(network, net.JoinHostPort("::1", number)); err6 == nil {
		return c6, nil
	}
	return nil, err
}

// serveFront passes signals on to the command until the front is gone. Then it
// kills all that runs here.
func (i *inside) serveFront() {
	for {
		var o order
		files, err := i.front.Receive(&o)
		closeAll(files)
		if err != nil {
			break
		}
		if i.group.had(syscall.Signal(o.Signal)) {
			continue
		}
		i.mu.Lock()
		if i.pid != 0 && o.Signal != 0 {
			_ = unix.Kill(i.pid, syscall.Signal(o.Signal)) // it may have ended just now
		}
		i.mu.Unlock()
	}
	i.mu.Lock()
	i.ended = true
	i.mu.Unlock()
	killChildren()
}
