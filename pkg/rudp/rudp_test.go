package rudp

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/inet"
	"softether-go/pkg/leaktest"
	"softether-go/pkg/rc4"
	"softether-go/pkg/wire"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// A way is a network between two sockets, with a delay and whatever else is wrong.
type way struct {
	delay   time.Duration
	lose    float64
	twice   float64
	shuffle time.Duration // more delay for some
	cut     bool

	mu          sync.Mutex // guards the fields below and cut
	rand        *mathrand.Rand
	lost, again int
	late        int
	longest     int
}

func (w *way) send(b []byte, to *socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.longest = max(w.longest, len(b))
	if w.cut || w.rand.Float64() < w.lose {
		w.lost++
		return
	}
	copies := 1
	if w.rand.Float64() < w.twice {
		copies, w.again = 2, w.again+1
	}
	for range copies {
		delay := w.delay
		if w.shuffle > 0 && w.rand.Float64() < 0.3 {
			delay += time.Duration(w.rand.Int64N(int64(w.shuffle)))
			w.late++
		}
		b := bytes.Clone(b)
		time.AfterFunc(delay, func() { to.put(b) })
	}
}

func (w *way) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// A socket is one end, a net.Conn of datagrams.
type socket struct {
	way    *way
	peer   *socket
	queue  chan []byte
	refuse bool
	once   sync.Once
	closed chan struct{}
}

func sockets(w *way) (a, b *socket) {
	if w.rand == nil {
		w.rand = mathrand.New(mathrand.NewPCG(1, 2))
	}
	a = &socket{way: w, queue: make(chan []byte, 4096), closed: make(chan struct{})}
	b = &socket{way: w, queue: make(chan []byte, 4096), closed: make(chan struct{}), peer: a}
	a.peer = b
	return a, b
}

func (s *socket) put(b []byte) {
	select {
	case s.queue <- b:
	default:
	}
}

func (s *socket) Read(b []byte) (int, error) {
	select {
	case p := <-s.queue:
		if p == nil {
			return 0, &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNREFUSED)}
		}
		return copy(b, p), nil
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

func (s *socket) Write(b []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	if s.refuse {
		s.put(nil)
		return len(b), nil
	}
	s.way.send(b, s.peer)
	return len(b), nil
}

func (s *socket) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *socket) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
func (s *socket) RemoteAddr() net.Addr             { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2} }
func (s *socket) SetDeadline(time.Time) error      { return nil }
func (s *socket) SetReadDeadline(time.Time) error  { return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// serve is the server's side of a stream: it waits for an opening and takes the mark.
func serve(t *testing.T, s *socket, over Carrier) *Conn {
	var b []byte
	select {
	case b = <-s.queue:
	case <-s.closed:
		return nil
	}
	if len(b) != openLen {
		t.Errorf("the opening has %d bytes, want %d", len(b), openLen)
	}
	k := clientKeys(hash(b[:hashLen]))
	k.send, k.recv = k.recv, k.send
	c := newConn(s, over, k, 0, new(Counters))
	c.mu.Lock()
	c.isOpen = true
	close(c.established)
	c.timer = time.AfterFunc(0, c.tend)
	c.launch(c.keys.aliveRequest[:])
	c.mu.Unlock()
	go c.receive()
	var mark [8]byte
	if _, err := io.ReadFull(c, mark[:]); err != nil {
		t.Errorf("the stream does not begin with a mark: %v", err)
		return c
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark = binary.BigEndian.Uint64(mark[:])
	return c
}

// pair returns both ends of a stream.
func pair(t *testing.T, w *way) (client, server *Conn) {
	t.Helper()
	a, b := sockets(w)
	served := make(chan *Conn, 1)
	go func() { served <- serve(t, b, Direct{}) }()
	client, err := Client(t.Context(), a, Direct{}, new(Counters))
	if err != nil {
		t.Fatal(err)
	}
	server = <-served
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func content(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// carry sends b from one to the other, and returns how long it took.
func carry(t *testing.T, from, to *Conn, b []byte) time.Duration {
	t.Helper()
	begun := time.Now()
	sent := make(chan error, 1)
	go func() { _, err := from.Write(b); sent <- err }()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatalf("read: %v", err)
	}
	if err := <-sent; err != nil {
		t.Fatalf("write: %v", err)
	}
	if !bytes.Equal(got, b) {
		t.Fatal("what arrives is not what was sent")
	}
	return time.Since(begun)
}

func TestAStreamCarriesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: 10 * time.Millisecond})
		b := content(1 << 20)
		took := carry(t, client, server, b)
		carry(t, server, client, b)
		// 2048 segments, 64 a round trip of 20 ms, are 640 ms.
		if took < 600*time.Millisecond || took > 800*time.Millisecond {
			t.Errorf("1 MiB over a round trip of 20 ms took %v, want 32 windows", took)
		}
		if s := client.stats.Stats(); s.Repeated != 0 {
			t.Errorf("%d of %d segments were repeated, and none was lost", s.Repeated, s.Sent)
		}
	})
}

func TestAStreamSurvivesWhatNetworksDo(t *testing.T) {
	for _, c := range []struct {
		name string
		way  *way
		most time.Duration
	}{
		{"loss", &way{delay: 10 * time.Millisecond, lose: 0.1}, 20 * time.Second},
		{"half is lost", &way{delay: 5 * time.Millisecond, lose: 0.5}, 2 * time.Minute},
		{"reordering", &way{delay: 10 * time.Millisecond, shuffle: 30 * time.Millisecond}, 10 * time.Second},
		{"duplication", &way{delay: 10 * time.Millisecond, twice: 0.5}, 3 * time.Second},
		{"all of it", &way{delay: 20 * time.Millisecond, lose: 0.05, twice: 0.2, shuffle: 50 * time.Millisecond}, 40 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := c.way
				client, server := pair(t, w)
				up, down := content(256<<10), content(256<<10)
				took := carry(t, client, server, up) + carry(t, server, client, down)
				w.set(func() { // the ends may still be sending acknowledgements
					t.Logf("%v; lost %d, twice %d, late %d; client %+v", took, w.lost, w.again, w.late, client.stats.Stats())
					if (w.lose > 0) != (w.lost > 0) || (w.twice > 0) != (w.again > 0) || (w.shuffle > 0) != (w.late > 0) {
						t.Error("the fault did not happen")
					}
				})
				if took > c.most {
					t.Errorf("it took %v, more than %v", took, c.most)
				}
			})
		})
	}
}

func TestSilenceEndsAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{delay: 10 * time.Millisecond}
		client, server := pair(t, w)
		time.Sleep(time.Hour) // idle, which both bear
		carry(t, client, server, []byte("still there"))
		w.set(func() { w.cut = true })
		cut := time.Now()
		_, err := client.Read(make([]byte, 1))
		if !errors.Is(err, ErrSilent) {
			t.Errorf("a stream whose network is cut ends with %v, want %v", err, ErrSilent)
		}
		if d := time.Since(cut); d < silence-aliveMax || d > silence+time.Second {
			t.Errorf("that took %v, want about %v", d, silence)
		}
		if _, err := client.Write([]byte{1}); !errors.Is(err, ErrSilent) {
			t.Errorf("then a write gives %v", err)
		}
		w.set(func() {
			if w.lost == 0 {
				t.Error("nothing was cut")
			}
		})
	})
}

func TestACutThatEndsInTimeIsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{delay: 10 * time.Millisecond}
		client, server := pair(t, w)
		time.AfterFunc(100*time.Millisecond, func() { w.set(func() { w.cut = true }) })
		time.AfterFunc(6*time.Second, func() { w.set(func() { w.cut = false }) })
		took := carry(t, client, server, content(1<<20))
		if took < 6*time.Second || took > 12*time.Second {
			t.Errorf("the transfer with a gap of 6 s took %v", took)
		}
	})
}

func TestTheEndIsToldAfterTheLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: 50 * time.Millisecond})
		client.Write([]byte("goodbye"))
		client.Close()
		got, err := io.ReadAll(server)
		if string(got) != "goodbye" || err != nil {
			t.Errorf("the other end read %q, %v; want the last words and the end", got, err)
		}
		if _, err := server.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing to one who has left gives %v", err)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading from a closed stream gives %v", err)
		}
	})
}

func TestCloseDoesNotWaitLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{delay: 10 * time.Millisecond}
		client, _ := pair(t, w)
		w.set(func() { w.cut = true })
		client.Write([]byte("nobody hears this"))
		begun := time.Now()
		client.Close()
		if d := time.Since(begun); d != lastWords {
			t.Errorf("Close waited %v for one who is not there, want %v", d, lastWords)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := sockets(&way{})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := Client(ctx, a, Direct{}, new(Counters)); !errors.Is(err, errNobody) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an answer: %v", err)
		}
		b, _ := sockets(&way{})
		b.refuse = true
		if _, err := Client(t.Context(), b, Direct{}, new(Counters)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("at a closed port: %v", err)
		}
	})
}

func TestRefusalsDoNotEndAnOpenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: time.Millisecond})
		for range 10 {
			client.sock.(*socket).put(nil) // somebody says that the port is closed
		}
		synctest.Wait()
		carry(t, client, server, content(1000))
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: time.Millisecond})
		client.SetReadDeadline(time.Now().Add(time.Second))
		begun := time.Now()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("a read ended with %v after %v, want its deadline after 1s", err, time.Since(begun))
		}
		client.SetDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { client.SetReadDeadline(time.Unix(1, 0)) })
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read that waits is not ended by a deadline in the past: %v", err)
		}
		client.SetReadDeadline(time.Time{})
		carry(t, server, client, []byte("as before"))

		client.SetWriteDeadline(time.Now().Add(3 * time.Second))
		n, err := client.Write(content(8 << 20)) // nobody reads it
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < inLimit || n > inLimit+3*outLimit {
			t.Errorf("a write to one who does not read ended with %v after %d bytes, want what fits at both ends, and the deadline", err, n)
		}
	})
}

func TestAReaderThatComesLateGetsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: time.Millisecond})
		b := content(3 << 20)
		go func() { client.Write(b) }()
		time.Sleep(time.Minute)
		got := make([]byte, len(b))
		if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, b) {
			t.Errorf("after a minute's pause: %v, content right: %v", err, bytes.Equal(got, b))
		}
	})
}

func TestForeignDatagramsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: time.Millisecond})
		stranger := clientKeys(newInit())
		for _, b := range [][]byte{
			{}, {1}, make([]byte, headLen), make([]byte, headLen+1), make([]byte, 4<<10),
			stranger.seal(appendPlain(nil, 1, 1, 1, nil, 1, []byte("forged")), nil),
		} {
			client.sock.(*socket).put(append([]byte{}, b...))
		}
		synctest.Wait()
		if got := client.stats.Stats().Ignored; got != 6 {
			t.Errorf("%d datagrams were ignored, want 6", got)
		}
		carry(t, server, client, content(5000))
	})
}

func TestWhatCannotBeIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, &way{delay: time.Millisecond})
		say := func(yourTick, complete uint64, acks []uint64, seq uint64, data []byte) {
			client.sock.(*socket).put(bytes.Clone(server.keys.seal(appendPlain(nil, 5, yourTick, complete, acks, seq, data), nil)))
			synctest.Wait()
		}
		say(1<<60, 0, nil, 0, nil)                        // a clock that we have not reached
		say(0, 1<<40, nil, 0, nil)                        // acknowledges what was not sent
		say(0, 0, []uint64{0, 999, 1 << 63}, 0, nil)      // and one by one
		say(0, 0, nil, client.have+window+1, []byte{1})   // beyond the window
		say(0, 0, nil, client.have+1, content(maxData+1)) // longer than can be
		carry(t, client, server, content(50000))
		carry(t, server, client, content(50000))
	})
}

func TestFramesBesideTheStream(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
		hmac bool
	}{{"version 1", hashLen, false}, {"version 1 with HMAC", hashLen, true}, {"version 2", 32, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := pair(t, &way{delay: time.Millisecond})
				up, down := content(c.size), content(c.size)
				if err := client.SetBulk(wire.BulkKeys{Send: up, Recv: down, HMAC: c.hmac}); err != nil {
					t.Fatal(err)
				}
				if err := server.SetBulk(wire.BulkKeys{Send: down, Recv: up}); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var got [][]byte
				ended := make(chan error)
				go func() {
					ended <- server.RunFrames(ctx, func(f []byte) error { got = append(got, bytes.Clone(f)); return nil })
				}()
				synctest.Wait()
				want := [][]byte{content(14), content(60), content(1514)}
				for _, f := range want {
					if err := client.SendFrame(f); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * time.Millisecond)
				}
				carry(t, client, server, content(1000)) // the stream goes on beside them
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("RunFrames ended with %v", err)
				}
				if len(got) != len(want) {
					t.Fatalf("%d frames arrived, want %d; %+v", len(got), len(want), server.stats.Stats())
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("frame %d is not what was sent", i)
					}
				}
				if server.bulk.Load().useHMAC.Load() != c.hmac {
					t.Error("the other end has not noticed the signature's kind")
				}
			})
		})
	}
	if err := new(Conn).SetBulk(wire.BulkKeys{Send: content(20), Recv: content(32)}); err == nil {
		t.Error("keys of different versions were taken")
	}
}

// The vectors were computed by another program.
func TestKeys(t *testing.T) {
	var init hash
	for i := range init {
		init[i] = byte(i)
	}
	k := clientKeys(init)
	if got, want := hex.EncodeToString(k.recv[:]), "dc779b2ea583d5e31aa0fe31b730fee8f5a3297b"; got != want {
		t.Errorf("the server's key is %s, want %s", got, want)
	}
	if got, want := hex.EncodeToString(k.send[:]), "43b629f2139c589efb7197155a384fce10835036"; got != want {
		t.Errorf("the client's key is %s, want %s", got, want)
	}
	if got, want := hex.EncodeToString(service[:]), "9439a8935e6ac440f3d12f8ab3a8d0adddc427f3"; got != want {
		t.Errorf("the service's hash is %s, want %s", got, want)
	}
}

func TestCarriersHaveTheirHeads(t *testing.T) {
	b := DNS{}.wrap(nil, []byte("payload"))
	if len(b) != 37+7 || string(b[37:]) != "payload" || b[36] != 7 {
		t.Errorf("a question of %d bytes: %x", len(b), b)
	}
	answer := append(make([]byte, dnsAnswerLen), "payload"...)
	if _, ok := (DNS{}).unwrap(answer); ok {
		t.Error("a question was taken for an answer")
	}
	c := NewICMP()
	for kind, next := range map[byte]byte{infoReply: infoAsked, echoReply: echoReply} {
		got, ok := c.unwrap(icmpAnswer(c, kind, []byte("payload")))
		if !ok || string(got) != "payload" || c.wrap(nil, nil)[0] != next {
			t.Errorf("an answer of type %d holds %q, %v, and leads to type %d", kind, got, ok, c.wrap(nil, nil)[0])
		}
	}
	for _, foreign := range [][]byte{icmpAnswer(c, echo, nil), icmpAnswer(NewICMP(), infoReply, []byte("payload")), icmpAnswer(c, infoReply, []byte("payload"))[:40]} {
		if _, ok := c.unwrap(foreign); ok {
			t.Errorf("%x was taken for an answer", foreign)
		}
	}
	if b := c.message(nil, echo, []byte("odd")); inet.Checksum(b) != 0 {
		t.Errorf("the checksum of %x is wrong", b)
	}
	answer[2] = 0x81
	if got, ok := (DNS{}).unwrap(answer); !ok || string(got) != "payload" {
		t.Errorf("an answer holds %q, %v", got, ok)
	}
}

func TestSealingDoesNotAllocate(t *testing.T) {
	k := clientKeys(newInit())
	reply := k
	reply.send, reply.recv = k.recv, k.send
	data, b := content(maxData), make([]byte, 0, maxPacket)
	acks := []uint64{1, 2, 3}
	if n := testing.AllocsPerRun(100, func() {
		s, ok := reply.open(k.seal(appendPlain(b, 1, 2, 3, acks, 4, data), nil), nil)
		if !ok || s.seq != 4 {
			t.Fatal("it does not open")
		}
	}); n != 0 {
		t.Errorf("%v allocations a segment", n)
	}
	one, _ := newBulk(wire.BulkKeys{Send: data[:20], Recv: data[:20]})
	two, _ := newBulk(wire.BulkKeys{Send: data[:32], Recv: data[:32]})
	mac, _ := newBulk(wire.BulkKeys{Send: data[:20], Recv: data[:20], HMAC: true})
	for _, k := range []*bulk{one, two, mac} {
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := k.open(k.seal(data)); !ok {
				t.Fatal("it does not open")
			}
		}); n != 0 {
			t.Errorf("%v allocations a frame", n)
		}
	}
}

func FuzzSegment(f *testing.F) {
	k := clientKeys(hash{})
	k.send = k.recv
	f.Add([]byte{})
	f.Add(make([]byte, headLen))
	f.Add(appendPlain(nil, 1, 2, 3, []uint64{4, 5}, 6, []byte("data"))[headLen:])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append(make([]byte, headLen), body...)
		s, ok := k.open(k.seal(b, nil), nil) // so that the parser is reached
		if !ok {
			return
		}
		if s.acks() > window || len(s.data) > len(body) {
			t.Errorf("%d acknowledgements, %d bytes of data in %d", s.acks(), len(s.data), len(body))
		}
		for i := range s.acks() {
			s.ack(i)
		}
	})
}

func FuzzBulk(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add(make([]byte, headLen+40), true)
	f.Fuzz(func(t *testing.T, b []byte, second bool) {
		size := hashLen
		if second {
			size = 32
		}
		k, err := newBulk(wire.BulkKeys{Send: make([]byte, size), Recv: make([]byte, size)})
		if err != nil {
			t.Fatal(err)
		}
		k.open(bytes.Clone(b)) // as it is
		if !second && len(b) > 0 {
			var c rc4.Cipher // and signed, so that the parser is reached
			p := append(make([]byte, headLen), b...)
			c.Init(mixed(k.sendKey[:], p[hashLen:headLen]))
			c.XOR(p[headLen:])
			k.sendHMAC.Write(p[hashLen:])
			k.sendHMAC.Sum(p[:0])
			k.open(p)
		}
		fresh, _ := newBulk(wire.BulkKeys{Send: make([]byte, size), Recv: make([]byte, size)}) // k may have heard of high numbers
		if f, ok := fresh.open(bytes.Clone(fresh.seal(b))); !ok || !bytes.Equal(f, b) {
			t.Errorf("a frame of %d bytes does not come back", len(b))
		}
	})
}

func FuzzCarriers(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 100))
	f.Add(icmpAnswer(NewICMP(), infoReply, []byte("payload")))
	f.Fuzz(func(t *testing.T, b []byte) {
		DNS{}.unwrap(b)
		c := NewICMP()
		if len(b) >= ipHeadMin+8 { // let it pass for one of ours
			c.id, c.number = binary.BigEndian.Uint16(b[ipHeadMin+4:]), binary.BigEndian.Uint16(b[ipHeadMin+6:])
		}
		c.unwrap(b)
	})
}

func icmpAnswer(c *ICMP, kind byte, b []byte) []byte {
	head := make([]byte, ipHeadMin)
	head[0] = 0x45
	return c.message(head, kind, b)
}
