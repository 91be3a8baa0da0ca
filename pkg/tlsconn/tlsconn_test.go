package tlsconn

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"softether-go/pkg/session/sessiontest"
)

// counting counts system calls, as far as a net.Conn sees them.
type counting struct {
	net.Conn
	reads, writes atomic.Int64
	fail          atomic.Bool // the next writes
}

var errInjected = errors.New("injected")

func (c *counting) Read(b []byte) (int, error) { c.reads.Add(1); return c.Conn.Read(b) }

func (c *counting) Write(b []byte) (int, error) {
	if c.fail.Load() {
		return 0, errInjected
	}
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// loopback is two ends of a connection of TCP.
func loopback(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// pair is two ends over loopback, after the handshake.
func pair(t testing.TB, version uint16) (client, server *Conn, counts *counting) {
	t.Helper()
	near, far := loopback(t)
	counts = &counting{Conn: near}
	cert := sessiontest.Certificate(t, nil)
	client = Client(counts, &tls.Config{InsecureSkipVerify: true, MaxVersion: version, DynamicRecordSizingDisabled: true})
	server = Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, DynamicRecordSizingDisabled: true})
	t.Cleanup(func() { near.Close(); far.Close() })
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server, counts
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

func TestDataArrivesWhole(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			client, server, _ := pair(t, version)
			const total = 8 << 20
			sum := sha256.New()
			var writer sync.WaitGroup
			writer.Go(func() {
				r := rand.New(rand.NewPCG(1, 2))
				for left := total; left > 0; {
					b := make([]byte, min(left, 1+r.IntN(200_000)))
					for i := range b {
						b[i] = byte(r.Uint32())
					}
					sum.Write(b)
					if _, err := server.Write(b); err != nil {
						t.Error(err)
					}
					left -= len(b)
				}
				server.Close()
			})
			got := sha256.New()
			n, err := io.Copy(got, client)
			writer.Wait()
			if err != nil || n != total || !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
				t.Errorf("%d bytes of %d, %v, or another hash", n, total, err)
			}
		})
	}
}

func TestOneWriteIsOneSystemCall(t *testing.T) {
	client, server, counts := pair(t, 0)
	go io.Copy(io.Discard, server)
	before := counts.writes.Load()
	if _, err := client.Write(make([]byte, 48<<10)); err != nil { // three records
		t.Fatal(err)
	}
	if got := counts.writes.Load() - before; got != 1 {
		t.Errorf("%d writes to the network, want 1", got)
	}
}

func TestReadReturnsAllThatIsThere(t *testing.T) {
	client, server, counts := pair(t, 0)
	buf := make([]byte, 64<<10)
	if _, err := server.Write(make([]byte, 100)); err != nil { // past any ticket of the handshake
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, buf[:100]); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write(make([]byte, 40_000)); err != nil { // three records
		t.Fatal(err)
	}
	waitForBytes(t, counts.Conn, 40_000+3*22) // with what TLS 1.3 adds to each
	before := counts.reads.Load()
	n, err := client.Read(buf)
	if err != nil || n != 40_000 {
		t.Errorf("read %d bytes, %v; want all 40000", n, err)
	}
	if got := counts.reads.Load() - before; got != 1 {
		t.Errorf("%d reads from the network, want 1", got)
	}
}

func TestReadDoesNotWaitForMore(t *testing.T) {
	client, server, _ := pair(t, 0)
	if _, err := server.Write([]byte("now")); err != nil {
		t.Fatal(err)
	}
	client.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 64<<10)
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "now" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestADeadlineLeavesTheStreamWhole(t *testing.T) {
	client, server, _ := pair(t, 0)
	client.SetReadDeadline(time.Unix(1, 0))
	if _, err := client.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want a time-out", err)
	}
	client.SetReadDeadline(time.Time{})
	want := bytes.Repeat([]byte("x"), 50_000)
	go server.Write(want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after the deadline: %v", err)
	}
}

func TestPiecesOfRecordsAreJoined(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	cert := sessiontest.Certificate(t, nil)
	client := Client(&slowReader{near}, &tls.Config{InsecureSkipVerify: true})
	server := Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
	want := bytes.Repeat([]byte("0123456789"), 2000)
	go func() {
		server.Write(want)
		server.Close()
	}()
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

// slowReader yields a byte at a time.
type slowReader struct{ net.Conn }

func (s *slowReader) Read(b []byte) (int, error) { return iotest.OneByteReader(s.Conn).Read(b) }

func TestAFailedWriteIsReportedAndFinal(t *testing.T) {
	client, _, counts := pair(t, 0)
	counts.fail.Store(true)
	if _, err := client.Write([]byte("lost")); !errors.Is(err, errInjected) {
		t.Errorf("got %v", err)
	}
	counts.fail.Store(false)
	if _, err := client.Write([]byte("more")); err == nil {
		t.Error("a write after a lost one succeeded: the peer would see a gap")
	}
}
