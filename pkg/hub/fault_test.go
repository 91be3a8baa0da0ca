package hub_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

// errUnnoticed is an end of the stream that TLS had not announced.
var errUnnoticed = errors.New("cut")

// live goes through a client's whole life: hello, login, and units until the end.
// It returns how far it came and why no further.
func live(t *testing.T, h *hubtest.Hub) (stage string, err error) {
	raw, err := h.DialContext(t.Context(), "tcp", h.Addr)
	if err != nil {
		return "tls", err // a reset can come that early
	}
	c := newClient(t, h, raw)
	defer c.raw.Close()
	stage, err = c.live()
	if err == io.EOF && !c.noticed() {
		err = errUnnoticed
	}
	return stage, err
}

func (c *client) live() (stage string, err error) {
	if err := c.tls.Handshake(); err != nil {
		return "tls", err
	}
	if err := c.sayHello(); err != nil {
		return "hello", err
	}
	if err := c.login(c.hashed("bob", "secret")); err != nil {
		return "login", err
	}
	c.raw.SetDeadline(time.Now().Add(2 * time.Second))
	for {
		if err := c.next(); err != nil {
			return "data", err
		}
		if c.parser.Stats().KeepAlives > 0 {
			c.tls.CloseWrite()
			return "alive", nil
		}
	}
}

type expect func(error) bool

func is(want error) expect { return func(err error) bool { return errors.Is(err, want) } }

func says(text string) expect {
	return func(err error) bool { return err != nil && strings.Contains(err.Error(), text) }
}

func timesOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func well(err error) bool { return err == nil }

func TestEachFaultHappens(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault *hub.Fault
		stage string
		err   expect
	}{
		{"reset before TLS", &hub.Fault{Step: hub.BeforeTLS, Kind: hub.Reset}, "tls", is(syscall.ECONNRESET)},
		{"cut before TLS", &hub.Fault{Step: hub.BeforeTLS, Kind: hub.Cut}, "tls", is(errUnnoticed)},
		{"another protocol in place of TLS", &hub.Fault{Step: hub.BeforeTLS, Kind: hub.Say, Count: 1, Bytes: []byte("SSH-2.0-OpenSSH_9.2\r\n")},
			"tls", says("does not look like a TLS handshake")},
		{"cut before hello", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Cut}, "hello", is(errUnnoticed)},
		{"hang-up before hello", &hub.Fault{Step: hub.BeforeHello, Kind: hub.HangUp}, "hello", is(io.EOF)},
		{"refusal in place of hello", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Refuse, Code: wire.CodeHubBusy}, "hello", is(wire.CodeHubBusy)},
		{"garbage in place of hello", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Say, Count: 1, Bytes: []byte("\x00\x01\x02 what?\r\n")}, "hello", is(wire.ErrNotVPN)},
		{"headers without end", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Say, Bytes: []byte("X: y\r\n")}, "hello", says("header lines")},
		{"a line without end", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Say, Bytes: []byte("HTTP/1.1 200 OK ")}, "hello", says("header line is longer")},
		{"hello without challenge", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Alter, Change: func(p *pack.Pack) { p.SetData("random", nil) }},
			"hello", says("lacks a name or a challenge")},
		{"fillers before hello", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Fill, Count: 3}, "alive", well},
		{"delay before hello", &hub.Fault{Step: hub.BeforeHello, Kind: hub.Delay, Pause: time.Millisecond}, "alive", well},
		{"reset while logging in", &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Reset}, "login", is(syscall.ECONNRESET)},
		{"hang-up while logging in", &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.HangUp}, "login", is(io.EOF)},
		{"refusal of the login", &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Refuse, Code: wire.CodeAccessDenied}, "login", is(wire.CodeAccessDenied)},
		{"fillers before the welcome", &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Fill, Count: 3}, "alive", well},
		{"fillers without end", &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Fill, Count: 1000}, "login", says("fillers without end")},
		{"welcome without session key", &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Alter, Change: func(p *pack.Pack) { p.SetData("session_key", nil) }},
			"login", says("no session key")},
		{"reset before any unit", &hub.Fault{Step: hub.InData, Kind: hub.Reset}, "data", is(syscall.ECONNRESET)},
		{"cut in mid-unit", &hub.Fault{Step: hub.InData, Kind: hub.Cut, After: 6}, "data", is(errUnnoticed)},
		{"hang-up in mid-unit", &hub.Fault{Step: hub.InData, Kind: hub.HangUp, After: 6}, "data", is(io.EOF)},
		{"stall in mid-unit", &hub.Fault{Step: hub.InData, Kind: hub.Stall, After: 6}, "data", timesOut},
		{"a stall that passes", &hub.Fault{Step: hub.InData, Kind: hub.Stall, After: 6, Pause: time.Millisecond}, "alive", well},
		{"delay", &hub.Fault{Step: hub.InData, Kind: hub.Delay, After: 2, Pause: time.Millisecond}, "alive", well},
		{"single bytes", &hub.Fault{Step: hub.InData, Kind: hub.Trickle}, "alive", well},
		{"single bytes, slowly", &hub.Fault{Step: hub.InData, Kind: hub.Trickle, Pause: time.Second}, "data", timesOut},
		{"a block too long", &hub.Fault{Step: hub.InData, Kind: hub.Say, Count: 1, Bytes: hub.LongBlock()}, "data", is(wire.ErrLongBlock)},
		{"a keep-alive too long", &hub.Fault{Step: hub.InData, Kind: hub.Say, Count: 1, Bytes: hub.LongKeepAlive()}, "data", is(wire.ErrLongKeepAlive)},
		{"a length with inverted bits", &hub.Fault{Step: hub.InData, Kind: hub.Flip, After: 4}, "data", is(wire.ErrLongKeepAlive)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hubtest.Start(t, bob)
			lift := h.Inject(row.fault)
			stage, err := live(t, h)
			if stage != row.stage || !row.err(err) {
				t.Errorf("came to %q with %v, want %q", stage, err, row.stage)
			}
			if n := row.fault.Strikes(); n != 1 {
				t.Errorf("struck %d times", n)
			}
			lift()
			if stage, err := live(t, h); err != nil {
				t.Errorf("without the fault: came to %q with %v", stage, err)
			}
			if n := row.fault.Strikes(); n != 1 {
				t.Errorf("struck %d times after it was lifted", n)
			}
		})
	}
}

func TestWrongFieldsOfAWelcome(t *testing.T) {
	h := hubtest.Start(t, bob)
	f := hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Alter, Change: func(p *pack.Pack) { p.SetInt("timeout", 0) }}
	h.Inject(&f)
	c := enter(t, h)
	if c.welcome.Timeout != wire.DefaultTimeout || f.Strikes() != 1 {
		t.Errorf("time-out %v after %d strikes", c.welcome.Timeout, f.Strikes())
	}
}

func TestAFaultStrikesSoManyTimes(t *testing.T) {
	h := hubtest.Start(t, bob)
	f := hub.Fault{Step: hub.BeforeHello, Kind: hub.Cut, Times: 2}
	h.Inject(&f)
	var stages []string
	for range 4 {
		stage, _ := live(t, h)
		stages = append(stages, stage)
	}
	if got := strings.Join(stages, " "); got != "hello hello alive alive" || f.Strikes() != 2 {
		t.Errorf("came to %s with %d strikes", got, f.Strikes())
	}
}

func TestAFaultStrikesWhoIsThereAlready(t *testing.T) {
	for name, kind := range map[string]hub.Kind{"reset": hub.Reset, "cut": hub.Cut, "hang-up": hub.HangUp} {
		t.Run(name, func(t *testing.T) {
			h := hubtest.Start(t, bob)
			c := enter(t, h)
			if err := c.next(); err != nil { // the first keep-alive
				t.Fatal(err)
			}
			f := hub.Fault{Step: hub.InData, Kind: kind}
			h.Inject(&f)
			if err := c.end(); err == nil || timesOut(err) {
				t.Errorf("ended with %v", err)
			}
			if f.Strikes() != 1 {
				t.Errorf("%d strikes", f.Strikes())
			}
		})
	}
}

func TestAStalledHubNeitherReadsNorWrites(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		a, b := enter(t, h).patient(), enter(t, h).patient()
		a.send(say(station(1), broadcast, "before"))
		b.receive(1)
		f := hub.Fault{Step: hub.InData, Kind: hub.Stall, Times: 1}
		lift := h.Inject(&f)
		h.Inject(&hub.Fault{}) // one that never strikes
		for f.Strikes() == 0 {
			time.Sleep(time.Second)
		}
		// One of the two is stalled: nothing that it says is heard, nor anything said to it.
		a.send(say(station(1), broadcast, "from a"))
		b.send(say(station(2), broadcast, "from b"))
		time.Sleep(15 * time.Second)
		for name, c := range map[string]*client{"a": a, "b": b} {
			c.raw.SetReadDeadline(time.Now().Add(time.Millisecond))
			for c.next() == nil {
			}
			if len(c.frames) > 0 {
				t.Errorf("%s heard %q", name, texts(c.frames))
			}
			c.patient()
		}
		lift()
		if got := texts(a.receive(1)); got[0] != "from b" {
			t.Errorf("a heard %q", got)
		}
		if got := texts(b.receive(1)); got[0] != "from a" {
			t.Errorf("b heard %q", got)
		}
	})
}

func TestFaultsStrikeInTheirOrder(t *testing.T) {
	h := hubtest.Start(t, bob)
	late := hub.Fault{Step: hub.InData, Kind: hub.HangUp, After: 8 + 4}
	early := hub.Fault{Step: hub.InData, Kind: hub.Say, Count: 1, Bytes: binary.BigEndian.AppendUint32(nil, 0)}
	h.Inject(&late)
	h.Inject(&early)
	stage, err := live(t, h)
	if stage != "data" || err != io.EOF || early.Strikes() != 1 || late.Strikes() != 1 {
		t.Errorf("came to %q with %v; %d and %d strikes", stage, err, early.Strikes(), late.Strikes())
	}
}
