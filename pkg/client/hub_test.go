package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/addresses"
	"softether-go/pkg/client"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/gateway"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/pack"
	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// vpn is everything: an embedded hub with a gateway, and a client with a network
// stack, in real time and over loopback.
type vpn struct {
	hub   *hubtest.Hub
	stack *netstack.Stack
	ended <-chan error // the client's Run

	mu  sync.Mutex // guards ups
	ups int        // how often it came up
}

// connect starts one. It ends with the test.
func connect(t *testing.T) *vpn {
	t.Helper()
	h := hubtest.Start(t, hub.Config{Timeout: 5 * time.Second, Users: []hub.User{{Name: "u", Password: "p"}}})
	gw, err := gateway.New(gateway.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 5}
	stack, err := netstack.New(netstack.Config{MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	v := &vpn{hub: h, stack: stack}
	up := make(chan struct{}, 100)
	c := client.New(client.Config{
		Session: session.Config{Host: "127.0.0.1", Hub: "DEFAULT", User: "u", Password: "p", Auth: wire.HashedPass,
			Trust: session.Trust{Roots: h.Roots}, DialContext: h.DialContext},
		Endpoint: stack, Configurer: stack, Config: addresses.Config{DHCP: &dhcp.Config{MAC: mac}},
		ReconnectDelay: 20 * time.Millisecond, ReconnectMax: 100 * time.Millisecond,
		OnState: func(s client.State) {
			if s == client.Up {
				v.mu.Lock()
				v.ups++
				v.mu.Unlock()
				up <- struct{}{}
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	ended := make(chan error, 1)
	v.ended = ended
	wg.Go(func() { ended <- c.Run(ctx) })
	wg.Go(func() { gw.Serve(ctx) })
	wg.Go(func() { h.Plug(ctx, gw) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		stack.Close()
		gw.Close()
	})
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		t.Fatal("the tunnel did not come up")
	}
	return v
}

// transfer sends n bytes up and n bytes down on one connection each, and reports
// what was not as it should be.
func (v *vpn) transfer(n int64) error {
	h := http.Client{Transport: &http.Transport{DialContext: v.stack.DialContext}, Timeout: time.Minute}
	defer h.CloseIdleConnections()
	want := sha256.New()
	io.CopyN(want, &gateway.Pattern{}, n)
	resp, err := h.Get(fmt.Sprintf("http://hub.demo/bytes?n=%d", n))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got := sha256.New()
	if _, err := io.Copy(got, resp.Body); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("downloaded something else")
	}
	resp, err = h.Post("http://hub.demo/sink", "application/octet-stream", io.LimitReader(&gateway.Pattern{}, n))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("%d %x\n", n, want.Sum(nil)); err != nil || string(answer) != want {
		return fmt.Errorf("uploaded %q, want %q: %w", answer, want, err)
	}
	return nil
}

// Whatever a server does in the middle of a transfer, the connection inside lives
// through it: the session is lost and comes back under it.
func TestConnectionsSurviveEveryFault(t *testing.T) {
	const after = 1 << 20 // of what the hub sends: in the middle of the download
	for name, fault := range map[string]*hub.Fault{
		"reset":                  {Step: hub.InData, Kind: hub.Reset, After: after},
		"cut":                    {Step: hub.InData, Kind: hub.Cut, After: after},
		"orderly end":            {Step: hub.InData, Kind: hub.HangUp, After: after},
		"stalled":                {Step: hub.InData, Kind: hub.Stall, After: after},
		"stalled for a moment":   {Step: hub.InData, Kind: hub.Stall, After: after, Pause: time.Second},
		"late":                   {Step: hub.InData, Kind: hub.Delay, After: after, Pause: time.Second},
		"a flipped byte":         {Step: hub.InData, Kind: hub.Flip, After: after},
		"a block too long":       {Step: hub.InData, Kind: hub.Say, After: after, Bytes: hub.LongBlock(), Count: 1},
		"a keep-alive too long":  {Step: hub.InData, Kind: hub.Say, After: after, Bytes: hub.LongKeepAlive(), Count: 1},
		"nonsense in the stream": {Step: hub.InData, Kind: hub.Say, After: after, Bytes: bytes.Repeat([]byte("nonsense"), 100), Count: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := connect(t)
			fault.Times = 1
			defer v.hub.Inject(fault)()
			if err := v.transfer(4 << 20); err != nil {
				t.Error(err)
			}
			if fault.Strikes() != 1 {
				t.Errorf("the fault happened %d times", fault.Strikes())
			}
		})
	}
}

// A server that cannot be joined for a while is tried again until it can.
func TestJoiningSurvivesEveryFault(t *testing.T) {
	noKey := func(p *pack.Pack) { p.SetData("session_key", nil) }
	for name, fault := range map[string]*hub.Fault{
		"reset before TLS":           {Step: hub.BeforeTLS, Kind: hub.Reset},
		"reset before hello":         {Step: hub.BeforeHello, Kind: hub.Reset},
		"ends before hello":          {Step: hub.BeforeHello, Kind: hub.HangUp},
		"ends before welcome":        {Step: hub.BeforeWelcome, Kind: hub.Cut},
		"busy":                       {Step: hub.BeforeWelcome, Kind: hub.Refuse, Code: wire.CodeHubBusy},
		"fillers":                    {Step: hub.BeforeWelcome, Kind: hub.Fill, Count: 20},
		"fillers without end":        {Step: hub.BeforeWelcome, Kind: hub.Fill, Count: 100_000},
		"a welcome without key":      {Step: hub.BeforeWelcome, Kind: hub.Alter, Change: noKey},
		"late":                       {Step: hub.BeforeWelcome, Kind: hub.Delay, Pause: time.Second},
		"a moment of stall in hello": {Step: hub.BeforeHello, Kind: hub.Stall, Pause: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := connect(t)
			fault.Times = 2
			defer v.hub.Inject(fault)()
			v.hub.KickAll()
			if err := v.transfer(1 << 20); err != nil {
				t.Error(err)
			}
			if fault.Strikes() == 0 {
				t.Error("the fault did not happen")
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.ups < 2 {
				t.Errorf("came up %d times: the kick was not noticed", v.ups)
			}
		})
	}
}

func TestWhatIsNoServerEndsIt(t *testing.T) {
	v := connect(t)
	fault := &hub.Fault{Step: hub.BeforeHello, Kind: hub.Say, Bytes: []byte("HTTP/1.1 200 OK\r\n" + string(bytes.Repeat([]byte("A: b\r\n"), 1000))), Count: 1}
	defer v.hub.Inject(fault)()
	v.hub.KickAll()
	select {
	case err := <-v.ended:
		if !errors.Is(err, wire.ErrNotVPN) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("still trying")
	}
	if fault.Strikes() == 0 {
		t.Error("the fault did not happen")
	}
}
