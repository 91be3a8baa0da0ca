//go:build linux

package integration

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/gateway"
)

const (
	embeddedHub  = "EMBEDDED"
	embeddedPort = "4443"
	embeddedName = "hub.demo"  // the gateway's usual name for itself
	embeddedPeer = "10.77.0.9" // outside what the gateway gives away
	embeddedBits = "/24"       // of the gateway's usual network
	gatewayHost  = "10.77.0.1" // its usual address
	switchPage   = "http://" + embeddedPeer + "/"
)

// Proves that our hub speaks the protocol as SoftEther's own client understands
// it, with a good password only, and that it switches between that client and ours.
func TestOfficialClientJoinsOurHub(t *testing.T) {
	t.Parallel()
	w := &world{t: t, cli: newNetns(t, "cli")}
	ns := newNetns(t, "hub")
	link(ns, w.cli, serverAddress+"/24", clientAddress+"/24")
	h := startEmbeddedHub(t, ns)

	o := startOfficial(t, w.cli)
	o.Connect(serverAddress+":"+embeddedPort, embeddedHub, userPassword, embeddedPeer+embeddedBits)
	eventually(t, 20*time.Second, "the gateway's page through the official client", func() error {
		page, err := w.Curl("--max-time", "2", "http://"+gatewayHost+"/")
		if err == nil && page == "" {
			err = errors.New("an empty page")
		}
		return err
	})
	if got := len(h.Sessions()); got != 1 {
		t.Errorf("sessions of our hub: got %d, want 1", got)
	}

	fingerprint := h.Fingerprint()
	c := w.StartClient(usualFlags.with(flags{"port": embeddedPort, "hub": embeddedHub, "insecure": absent,
		"pin": "sha256:" + hex.EncodeToString(fingerprint[:])}))
	startSite(t, w.cli) // on the official client's TAP, among others
	c.WaitPage(switchPage)
	if _, err := w.Curl("--proxy", "http://"+httpProxy, "http://"+embeddedName+"/"); err != nil {
		t.Errorf("the gateway's page by its name: %v", err)
	}
}

// startEmbeddedHub serves a hub with a gateway in the namespace until the test ends.
func startEmbeddedHub(t testing.TB, ns *netns) *hub.Hub {
	t.Helper()
	h, err := hub.New(hub.Config{Hub: embeddedHub, Users: []hub.User{{Name: userName, Password: userPassword}}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	run := func(what string, serve func() error) {
		group.Go(func() {
			if err := serve(); ctx.Err() == nil {
				t.Errorf("%s stopped: %v", what, err)
			}
		})
	}
	l := ns.Listen(net.JoinHostPort(serverAddress, embeddedPort))
	run("the hub", func() error { return h.Serve(ctx, l) })
	run("its port", func() error { return h.Plug(ctx, g) })
	run("the gateway", func() error { return g.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
		h.Close()
		g.Close()
	})
	return h
}
