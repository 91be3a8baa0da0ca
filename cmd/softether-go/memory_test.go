package main

import (
	"io"
	"net"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"
)

// A burst of connections leaves little behind, once it is quiet.
func TestMemoryOfABurstIsGivenBack(t *testing.T) {
	const clients = 1500 // with two files each, fewer than 4096
	_, _, proxy := startDemo(t)
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	before := countProcess().ResidentBytes
	conns := openClients(t, u.Host, clients)
	most := countProcess().ResidentBytes
	for _, c := range conns {
		c.Close()
	}
	grown := most - before
	if grown < 2*worthwhile {
		t.Fatalf("%d clients took %d bytes, too few to show anything", clients, grown)
	}
	var after int64
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if after = countProcess().ResidentBytes; after < before+grown/2 {
			t.Logf("%d MB resident at first, %d with %d clients, %d after", before>>20, most>>20, clients, after>>20)
			return
		}
	}
	t.Errorf("%d MB resident at first, %d with %d clients, still %d long after", before>>20, most>>20, clients, after>>20)
}

// openClients opens connections through a SOCKS5 proxy to the demo's page.
func openClients(t *testing.T, proxy string, n int) []net.Conn {
	t.Helper()
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				mu.Lock()
				n--
				left := n
				mu.Unlock()
				if left < 0 {
					return
				}
				c, err := net.Dial("tcp", proxy)
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
				if err := askForPage(c); err != nil {
					t.Errorf("through the proxy: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	return conns
}

// askForPage has a SOCKS5 proxy connect to the demo's web server (RFC 1928).
func askForPage(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	const host = "hub.demo"
	say := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	if _, err := c.Write(append(say, 0, 80)); err != nil {
		return err
	}
	answer := make([]byte, 2+10)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if answer[3] != 0 {
		return &net.AddrError{Err: "the proxy says no", Addr: host}
	}
	return nil
}

// Only a quiet program with much to give is stopped for the work, and ever more rarely.
func TestMemoryIsGivenBackRarelyAndInQuiet(t *testing.T) {
	var batches uint64
	r := &reclaimer{carried: func() uint64 { return batches }}
	r.last = countProcess()
	r.start = r.last.ResidentBytes
	look := func(want int, why string) {
		t.Helper()
		if r.look(); r.times != want {
			t.Fatalf("given back %d times, want %d: %s", r.times, want, why)
		}
	}
	look(0, "there was nothing to give back")
	held := make([]byte, 8*worthwhile)
	for i := range held {
		held[i] = 1
	}
	var holders sync.WaitGroup
	leave := make(chan struct{})
	for range 1000 {
		holders.Go(func() { <-leave })
	}
	batches += quietBatches
	look(0, "frames flow")
	look(1, "it is quiet, though all is held")
	look(1, "nothing has changed")
	look(2, "it may have")
	for range 2*againAfter - 1 {
		look(2, "it had not, the last time")
	}
	look(3, "it may have")
	runtime.KeepAlive(held)
	close(leave)
	holders.Wait()
	look(4, "who held it has gone")
	for range 4 * againAfter {
		look(4, "nothing is left to give")
	}
}
