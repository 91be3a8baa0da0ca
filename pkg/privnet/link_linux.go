package privnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"softether-go/pkg/netcfg"
	"softether-go/pkg/tap"
)

// ErrEnded says that the namespace is no more: the command has ended, or was killed.
var ErrEnded = errors.New("the command's network namespace has ended")

// A Link is the VPN process's end of the link: the interface in the namespace, and a way
// to configure it and to connect inside. Its methods may be called at once.
type Link struct {
	*tap.Device
	socket *Socket
	done   chan struct{} // closed when nothing will be answered any more

	mu      sync.Mutex // guards the fields below
	seq     uint64
	waiting map[uint64]chan reply
}

type reply struct {
	err  error
	file *os.File
}

// NewLink takes over the file and waits for the interface. A nil log discards.
func NewLink(f *os.File, log *slog.Logger) (*Link, error) {
	s, err := NewSocket(f)
	if err != nil {
		return nil, err
	}
	var h hello
	files, err := s.Receive(&h)
	if err == nil && len(files) != 1 {
		closeAll(files)
		err = errors.New("no interface came by the link")
	}
	l := &Link{socket: s, done: make(chan struct{}), waiting: map[uint64]chan reply{}}
	if err == nil {
		l.Device, err = tap.Adopt(files[0], h.TAP, log)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	go l.receive()
	return l, nil
}

// receive passes answers on until the link ends.
func (l *Link) receive() {
	defer close(l.done)
	for {
		var a answer
		files, err := l.socket.Receive(&a)
		if err != nil {
			return
		}
		r := reply{}
		if a.Error != "" {
			r.err = errors.New(a.Error)
		}
		if len(files) > 0 {
			r.file = files[0]
			closeAll(files[1:])
		}
		l.mu.Lock()
		c := l.waiting[a.Seq]
		delete(l.waiting, a.Seq)
		l.mu.Unlock()
		if c != nil {
			c <- r
		} else if r.file != nil {
			r.file.Close()
		}
	}
}

// ask sends a request and waits for its answer.
func (l *Link) ask(ctx context.Context, r request) (*os.File, error) {
	c := make(chan reply, 1)
	l.mu.Lock()
	l.seq++
	r.Seq = l.seq
	l.waiting[r.Seq] = c
	l.mu.Unlock()
	if err := l.socket.Send(r); err != nil {
		l.forget(r.Seq)
		return nil, fmt.Errorf("%w (%w)", ErrEnded, err)
	}
	select {
	case a := <-c:
		return a.file, a.err
	case <-ctx.Done():
		l.forget(r.Seq)
		return nil, ctx.Err()
	case <-l.done:
		return nil, ErrEnded
	}
}

func (l *Link) forget(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, seq)
}

// Apply makes the configuration that of the namespace. The zero Config is not an error once
// the namespace has ended.
func (l *Link) Apply(ctx context.Context, c netcfg.Config) error {
	_, err := l.ask(ctx, request{Apply: &c})
	if c.IsZero() && errors.Is(err, ErrEnded) {
		return nil
	}
	return err
}

// Ready says that the network is configured. The first time it starts the command.
func (l *Link) Ready(ctx context.Context) error {
	_, err := l.ask(ctx, request{Ready: true})
	return err
}

// Dial connects to a server inside that listens on loopback or on all addresses; the
// port is as tcp/80.
func (l *Link) Dial(ctx context.Context, port string) (net.Conn, error) {
	f, err := l.ask(ctx, request{Dial: port})
	if err != nil {
		return nil, fmt.Errorf("connect to %s inside: %w", port, err)
	}
	if f == nil {
		return nil, fmt.Errorf("connect to %s inside: no connection came", port)
	}
	defer f.Close()
	return net.FileConn(f)
}

// Done is closed when the namespace has ended.
func (l *Link) Done() <-chan struct{} { return l.done }

// Close gives the interface up, which removes it. The command goes on without.
func (l *Link) Close() error { return errors.Join(l.socket.Close(), l.Device.Close()) }

// splitPort takes tcp/80 apart.
func splitPort(s string) (network, number string, err error) {
	network, number, _ = strings.Cut(s, "/")
	if network != "tcp" && network != "udp" || number == "" {
		return "", "", fmt.Errorf("%q is not a port: want one like tcp/80", s)
	}
	return network, number, nil
}
