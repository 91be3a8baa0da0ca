//go:build linux

package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"softether-go/pkg/hub"
	"softether-go/pkg/tap"
)

// childVariable makes this binary one of the programs below in place of the tests:
// what the hub or bare TLS uses must not count as the generators'.
const childVariable = "SOFTETHER_GO_COMPARE"

const (
	childHub  = "hub"  // the embedded hub with a TAP behind it, beside a peer for bare TLS
	childTLS  = "tls"  // one end of bare TLS: ADDRESS up|down DURATION
	childEcho = "echo" // an echo service for as many connections as there can be files
	childMany = "many" // connections one after the other: PROXY DURATION

	lanDevice    = "tap_lan" // what vpnserver calls it
	manyEchoPort = "1007"    // the site's own echo has three files for each connection
	echoTarget   = lanGateway + ":" + manyEchoPort

	bareTLSPort = "444"
	bareTLSSize = 64 << 10 // of one Write, and the most of one Read
)

// It runs before main, because TestMain would make a run of its own for it.
func init() {
	var err error
	switch os.Getenv(childVariable) {
	case "":
		return
	case childHub:
		err = serveHub()
	case childEcho:
		err = serveEcho()
	case childMany:
		err = runMany(os.Args[1], os.Args[2])
	case childTLS:
		err = runBareTLS(os.Args[1], os.Args[2] == "up", os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childCommand prepares this binary as one of the children.
func childCommand(ns *netns, child string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := ns.Command(append([]string{self}, args...)...)
	cmd.Env = append(cmd.Env, childVariable+"="+child)
	return start(ns.t, child, cmd), nil
}

// serveHub takes the place of vpnserver: the same hub, user and password, and a
// TAP of the same name behind it.
func serveHub() error {
	certificate, err := newCertificate()
	if err != nil {
		return err
	}
	h, err := hub.New(hub.Config{Hub: hubName, Users: []hub.User{{Name: userName, Password: userPassword}}, Certificate: certificate})
	if err != nil {
		return err
	}
	d, err := tap.Open(tap.Config{Name: lanDevice})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", ":"+serverPort)
	if err != nil {
		return err
	}
	bare, err := tls.Listen("tcp4", ":"+bareTLSPort, &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(context.Background())
	g.Go(func() error { return h.Serve(ctx, l) })
	g.Go(func() error { return h.Plug(ctx, d) })
	g.Go(func() error { return serveBareTLS(bare) })
	return g.Wait()
}

func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// serveBareTLS is the other end of runBareTLS, whose first byte is the direction.
func serveBareTLS(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var up [1]byte
			if _, err := c.Read(up[:]); err == nil {
				pumpTLS(c, up[0] == 0)
			}
		}()
	}
}

// pumpTLS writes or reads until the connection ends, and returns how many bytes.
func pumpTLS(c net.Conn, write bool) (total int64) {
	step := c.Read
	if write {
		step = c.Write
	}
	for b := make([]byte, bareTLSSize); ; {
		n, err := step(b)
		total += int64(n)
		if err != nil {
			return total
		}
	}
}

func serveEcho() error {
	l, err := net.Listen("tcp4", ":"+manyEchoPort)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for b := make([]byte, 64); ; {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// many is what runMany prints.
type many struct {
	Opened, Failed int
	Elapsed, P99   time.Duration
}

// runMany opens connections to an echo service, has a byte echoed and closes them,
// by several dialers for some time, and prints how it went. As a process of its own
// it has no goroutines tied to threads, each of whose waits would be the kernel's.
func runMany(proxy, duration string) error {
	period, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var took []time.Duration
	var result many
	var g errgroup.Group
	begun := time.Now()
	for range dialers {
		g.Go(func() error {
			for time.Since(begun) < period {
				at := time.Now()
				c, err := openEcho(proxy)
				if err == nil {
					c.Close()
				}
				lasted := time.Since(at)
				mu.Lock()
				if err != nil {
					result.Failed++
				} else {
					took = append(took, lasted)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	result.Opened, result.Elapsed = len(took), time.Since(begun)
	if len(took) > 0 {
		slices.Sort(took)
		result.P99 = took[len(took)*99/100]
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// bareTLS is what runBareTLS prints.
type bareTLS struct {
	Bytes   int64
	CPU     time.Duration
	Elapsed time.Duration
}

// runBareTLS moves bytes one way for some time, and prints what it took.
func runBareTLS(address string, up bool, duration string) error {
	period, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	c, err := tls.Dial("tcp4", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer c.Close()
	first := []byte{0}
	if up {
		first[0] = 1
	}
	if _, err := c.Write(first); err != nil {
		return err
	}
	begun, cpu := time.Now(), processCPU()
	c.SetDeadline(begun.Add(period))
	n := pumpTLS(c, up)
	return json.NewEncoder(os.Stdout).Encode(bareTLS{n, processCPU() - cpu, time.Since(begun)})
}

func processCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
