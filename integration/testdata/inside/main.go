// Command inside is what the tests of softether-go run put into a network of its own:
// a static Go program, as people have them, that asks the kernel and nobody else.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := do(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "inside:", err)
		os.Exit(1)
	}
}

func do(what string, args []string) error {
	switch what {
	case "lookup":
		addrs, err := net.LookupHost(args[0])
		fmt.Println(addrs)
		return err
	case "get":
		r, err := (&http.Client{Timeout: 10 * time.Second}).Get(args[0])
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(os.Stdout, r.Body)
		return err
	case "serve":
		return serve(args[0])
	case "echo": // by UDP
		return echo(args[0])
	case "send":
		return send(args)
	case "capture":
		return capture(args[0])
	case "signals":
		return signals()
	case "orphan": // ends, and leaves a process behind that writes a line later
		cmd := exec.Command(os.Args[0], "later", args[0])
		cmd.Stdout = os.Stdout
		return cmd.Start()
	case "later":
		_, err := net.DialTimeout("tcp", args[0], 10*time.Second)
		fmt.Println("later", err)
		return err
	}
	return fmt.Errorf("cannot %s", what)
}

// serve answers HTTP until it is killed.
func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	var own []string
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok && p.IP.To4() != nil && !p.IP.IsLoopback() {
			own = append(own, p.IP.String())
		}
	}
	fmt.Println("serving at", strings.Join(own, " "), ".")
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "inside got %d bytes", len(b))
	}))
}

// echo answers datagrams until it is killed.
func echo(addr string) error {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	fmt.Println("echoing")
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		c.WriteTo(b[:n], from)
	}
}

// send sends packets of all kinds everywhere, again and again, until it is killed.
func send(targets []string) error {
	fmt.Println("sending")
	for {
		for _, t := range targets {
			if c, err := net.Dial("udp", net.JoinHostPort(t, "9")); err == nil {
				c.Write([]byte("a datagram that nobody outside may see"))
				c.Close()
			}
			if c, err := net.DialTimeout("tcp", net.JoinHostPort(t, "9"), 20*time.Millisecond); err == nil {
				c.Close()
			}
		}
		net.DialTimeout("tcp", "somewhere.example:80", 20*time.Millisecond)
		time.Sleep(5 * time.Millisecond)
	}
}

// capture prints whether a packet can be captured that is sent meanwhile.
func capture(target string) error {
	const all = 0x0300 // ETH_P_ALL in network order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, all)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	defer syscall.Close(fd)
	go func() {
		for {
			net.DialTimeout("tcp", target, time.Second)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	n, err := syscall.Read(fd, make([]byte, 2000))
	if err == nil && n > 0 {
		fmt.Println("captured")
	}
	return err
}

// signals prints what it gets, until SIGTERM.
func signals() error {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM)
	fmt.Println("waiting")
	for s := range c {
		fmt.Println("got", s)
		if s == syscall.SIGTERM {
			return nil
		}
	}
	return nil
}
