package vpn_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/gateway"
	"softether-go/pkg/session"
	"softether-go/pkg/vpn"
	"softether-go/pkg/wire"
)

// A lab is a hub on loopback with a gateway behind it: a VPN to run the examples on.
type lab struct {
	hub  *hub.Hub
	port int
	pin  [sha256.Size]byte
	stop func()
}

func startLab() lab {
	h, err := hub.New(hub.Config{Hub: "VPN", Users: []hub.User{{Name: "alice", Password: "secret"}}, Timeout: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	gw, err := gateway.New(gateway.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, part := range []func(){
		func() { _ = h.Serve(ctx, ln) }, func() { _ = h.Plug(ctx, gw) }, func() { _ = gw.Serve(ctx) },
	} {
		running.Go(part)
	}
	return lab{hub: h, port: ln.Addr().(*net.TCPAddr).Port, pin: h.Fingerprint(), stop: func() {
		cancel()
		running.Wait()
		gw.Close()
	}}
}

// config is what a user of the lab dials with.
func (l lab) config() vpn.Config {
	return vpn.Config{Session: session.Config{
		Host: "127.0.0.1", Port: l.port, Hub: "VPN", User: "alice", Password: "secret",
		Trust: session.Trust{Pins: [][sha256.Size]byte{l.pin}},
	}}
}

// Join a hub, and get a page from a web server behind it, whose name only the VPN's
// name server knows.
func Example() {
	lab := startLab() // stands in for your server
	defer lab.stop()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, vpn.Config{Session: session.Config{
		Host: "127.0.0.1", Port: lab.port, Hub: "VPN", User: "alice", Password: "secret",
		Trust: session.Trust{Pins: [][sha256.Size]byte{lab.pin}}, // its certificate is self-signed
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()

	web := tunnel.HTTPClient()
	defer web.CloseIdleConnections()
	resp, err := web.Get("http://hub.demo/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Status, len(page) > 0)
	// Output: 200 OK true
}

// Serve a port on our address in the VPN, and call it from another member of the hub.
func ExampleTunnel_Listen() {
	lab := startLab()
	defer lab.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	server, err := vpn.Dial(ctx, lab.config())
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	caller, err := vpn.Dial(ctx, lab.config())
	if err != nil {
		log.Fatal(err)
	}
	defer caller.Close()

	listener, err := server.Listen("tcp", ":7000") // whatever address the lease gives, also later
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the tunnel is closed
			}
			fmt.Fprintln(conn, "hello from the VPN")
			conn.Close()
		}
	}()

	conn, err := caller.DialContext(ctx, "tcp", net.JoinHostPort(server.Address().Address.Addr().String(), "7000"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(text))
	// Output: hello from the VPN
}

// Receive datagrams at our address in the VPN, and answer those who sent them.
func ExampleTunnel_ListenPacket() {
	lab := startLab()
	defer lab.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	server, err := vpn.Dial(ctx, lab.config())
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	caller, err := vpn.Dial(ctx, lab.config())
	if err != nil {
		log.Fatal(err)
	}
	defer caller.Close()

	socket, err := server.ListenPacket("udp", ":5000") // whatever address the lease gives, also later
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(buf)
			if err != nil {
				return // the tunnel is closed
			}
			_, _ = socket.WriteTo(bytes.ToUpper(buf[:n]), from) // what is lost, the caller sends again
		}
	}()

	conn, err := caller.DialContext(ctx, "udp", net.JoinHostPort(server.Address().Address.Addr().String(), "5000"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", buf[:n])
	// Output: HELLO
}

// Names are those of the VPN.
func ExampleTunnel_LookupNetIP() {
	lab := startLab()
	defer lab.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, lab.config())
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()
	addresses, err := tunnel.LookupNetIP(ctx, "ip4", "hub") // completed by the lease's domain
	fmt.Println(addresses, err)
	// Output: [10.77.0.1] <nil>
}

// Whatever takes a resolver of package net takes this one, which asks the VPN's name servers.
func ExampleTunnel_Resolver() {
	lab := startLab()
	defer lab.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, lab.config())
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()

	resolver := tunnel.Resolver() // has LookupMX, LookupSRV, LookupTXT and LookupAddr, too
	hosts, err := resolver.LookupHost(ctx, "hub.demo.")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(hosts)
	// Output: [10.77.0.1]
}

// A refusal is for good, and has a code that says why.
func ExampleDial_refused() {
	lab := startLab()
	defer lab.stop()
	cfg := lab.config()
	cfg.Session.Password = "guess"
	_, err := vpn.Dial(context.Background(), cfg)
	var code wire.Code
	if errors.As(err, &code) {
		fmt.Println(code == wire.CodeAuthFailed, code.Advice() == wire.Never)
	}
	// Output: true true
}
