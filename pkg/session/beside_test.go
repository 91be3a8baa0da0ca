package session

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/pack"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// besides is a connection with room beside its stream.
type besides struct {
	net.Conn
	keys *wire.BulkKeys
	come chan []byte

	mu   sync.Mutex // guards went
	went [][]byte
}

func (b *besides) RemoteAddr() net.Addr { return named{"rudp"} }

type named struct{ network string }

func (n named) Network() string { return n.network }
func (n named) String() string  { return "192.0.2.1:4500" }

func (b *besides) SetBulk(k wire.BulkKeys) error { b.keys = &k; return nil }

func (b *besides) SendFrame(f []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.went = append(b.went, bytes.Clone(f))
	return nil
}

func (b *besides) RunFrames(ctx context.Context, deliver func([]byte) error) error {
	for {
		select {
		case f := <-b.come:
			if err := deliver(f); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// overRUDP returns a Config whose connections are besides, and what they were asked for.
func overRUDP(t *testing.T, script func(*peer)) (cfg Config, conns *[]*besides, asked *[]string) {
	cfg = server(t, script)
	conns, asked = new([]*besides), new([]string)
	dial := cfg.DialContext
	cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		b := &besides{Conn: c, come: make(chan []byte)}
		*conns, *asked = append(*conns, b), append(*asked, network+" "+address)
		return b, err
	}
	return cfg, conns, asked
}

func welcomeBeside(p *pack.Pack) *pack.Pack {
	p.SetBool("enable_bulk_on_rudp", true)
	p.SetData("bulk_on_rudp_send_key", bytes.Repeat([]byte{1}, wire.HashLen))
	p.SetData("bulk_on_rudp_recv_key", bytes.Repeat([]byte{2}, wire.HashLen))
	return p
}

func TestFramesGoBesideTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, conns, asked := overRUDP(t, func(p *peer) {
			request := p.Greet()
			if request.Str("method") == wire.MethodAdditional {
				p.Reply(wire.Joined(wire.BothWays))
			} else {
				if !request.Bool("support_udp_recovery") || !request.Bool("support_bulk_on_rudp") {
					t.Error("the login asks for nothing of R-UDP")
				}
				w := sessiontest.Welcome()
				w.MaxConnection = 2
				p.Reply(welcomeBeside(w.Pack()))
			}
			p.Discard()
		})
		cfg.Connections = 2
		s := dial(t, cfg)
		if s.Network() != "rudp" {
			t.Errorf("the session is over %s", s.Network())
		}
		out := [][]byte{bytes.Repeat([]byte{7}, 60), make([]byte, 3), make([]byte, frame.MaxLen+1)}
		if err := s.WriteFrames(out); err != nil {
			t.Fatal(err)
		}
		first := (*conns)[0]
		if len(first.went) != 1 || !bytes.Equal(first.went[0], out[0]) {
			t.Errorf("%d frames went beside the stream, want the one that can be", len(first.went))
		}
		got := make(chan []byte, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- s.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
				got <- bytes.Clone(frames[0])
				return nil
			}))
		}()
		first.come <- make([]byte, 5) // no frame
		first.come <- out[0]
		if f := <-got; !bytes.Equal(f, out[0]) {
			t.Error("another frame came than was sent")
		}
		time.Sleep(2 * joinEvery)
		synctest.Wait()
		if len(*conns) != 2 || (*asked)[1] != "rudp 192.0.2.1:4500" || (*conns)[1].keys == nil {
			t.Errorf("asked for %q; the second connection is to be by the same way, with the same keys", *asked)
		}
		if n := s.Stats(); n.InFrames != 1 || n.InDropped != 1 || n.OutFrames != 1 || n.OutDropped != 2 {
			t.Errorf("counted %+v", n)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

func TestAFailingWriterEndsRunBesideTheStreamToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, conns, _ := overRUDP(t, func(p *peer) {
			p.Greet()
			p.Reply(welcomeBeside(sessiontest.Welcome().Pack()))
			p.Discard()
		})
		s := dial(t, cfg)
		first, full := (*conns)[0], errors.New("full")
		ended := make(chan error)
		go func() { ended <- s.Run(t.Context(), frame.WriterFunc(func([][]byte) error { return full })) }()
		first.come <- make([]byte, 60)
		if err := <-ended; !errors.Is(err, full) {
			t.Errorf("Run ended with %v, want the writer's error", err)
		}
	})
}

func TestWithoutKeysAllGoesInTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, conns, _ := overRUDP(t, func(p *peer) {
			p.Accept()
			p.Discard()
		})
		s := dial(t, cfg)
		if err := s.WriteFrames([][]byte{make([]byte, 60)}); err != nil {
			t.Fatal(err)
		}
		if c := (*conns)[0]; c.keys != nil || len(c.went) > 0 {
			t.Error("frames went beside a stream whose server has not agreed to that")
		}
	})
}
