//go:build linux

package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Proves of each kind of port that a client that is out of files, by those who come there,
// serves all that are in, says so, and lets others in when there are files again.
func TestOutOfFilesHoldsUpNobodyThatIsIn(t *testing.T) {
	t.Parallel()
	needTool(t, "dig", "bind9-dnsutils")
	const forwarded, names = "127.0.0.1:7000", "127.0.0.1:5300"
	target := net.JoinHostPort(lanGateway, echoPort)
	w := newWorld(t)
	path, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	f := usualFlags.with(flags{"L": "7000:" + target, "dns-listen": names})
	c := &client{start(t, "softether-go", w.cli.Command(append([]string{path}, f.args()...)...)), w} // as root, whose limits root may change
	c.WaitUp()
	echoes := func(t *testing.T, conn net.Conn, err error) *innerConn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		inner := &innerConn{t: t, Conn: conn}
		inner.Check(10 * time.Second)
		return inner
	}
	rows := []struct {
		name, port, says string
		use              func(t *testing.T) *innerConn // nil if it is done with what it asked for
	}{
		{"SOCKS", socksProxy, "accepting proxy clients paused", func(t *testing.T) *innerConn {
			conn, err := w.socksDial(t.Context(), target)
			return echoes(t, conn, err)
		}},
		{"HTTP", httpProxy, "accepting proxy clients paused", func(t *testing.T) *innerConn {
			conn, status := w.connectAs(t, "", target)
			if status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			return echoes(t, conn, nil)
		}},
		{"a forward", forwarded, "connection not accepted", func(t *testing.T) *innerConn {
			conn, err := w.cli.Dial(t.Context(), forwarded)
			return echoes(t, conn, err)
		}},
		{"names by TCP", names, "DNS client not accepted", func(t *testing.T) *innerConn {
			if out, errs, _ := w.cli.run(t, "", "dig", "@127.0.0.1", "-p", "5300", "+tcp", "+tries=1", "+short", siteName); out != lanGateway+"\n" {
				t.Fatalf("dig: %q, %s", out, errs)
			}
			return nil
		}},
	}
	var in []*innerConn
	for _, row := range rows {
		for range 5 {
			if conn := row.use(t); conn != nil {
				defer conn.Close()
				in = append(in, conn)
			}
		}
	}
	most := c.openFiles(t)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			// Those of the row before are closed a while after their clients are.
			eventually(t, 10*time.Second, "what nobody uses is closed", func() error {
				if n := c.openFiles(t); n > most {
					return fmt.Errorf("%d files are open, want at most %d", n, most)
				}
				return nil
			})
			usual := c.leaveFiles(t, 5)
			begun := len(c.Log())
			var waiting []net.Conn
			for range 20 { // the kernel connects all of them, the client takes the first few
				conn, err := w.cli.Dial(t.Context(), row.port)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				waiting = append(waiting, conn)
			}
			c.WaitLogAfter(begun, row.says+".*"+row.port+".*too many open files", 10*time.Second)
			for _, conn := range in {
				conn.Check(10 * time.Second)
			}
			for _, conn := range waiting {
				conn.Close()
			}
			c.mayOpen(t, usual)
			if conn := row.use(t); conn != nil {
				conn.Close()
			}
		})
	}
}

// openFiles is how many files the client has open.
func (c *client) openFiles(t testing.TB) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// leaveFiles lets the client open so many files more, and returns what it was limited to.
func (c *client) leaveFiles(t testing.TB, more int) (usual unix.Rlimit) {
	t.Helper()
	if err := unix.Prlimit(c.PID(), unix.RLIMIT_NOFILE, nil, &usual); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.mayOpen(t, usual) })
	c.mayOpen(t, unix.Rlimit{Cur: uint64(c.openFiles(t) + more), Max: usual.Max})
	return usual
}

func (c *client) mayOpen(t testing.TB, limit unix.Rlimit) {
	t.Helper()
	if err := unix.Prlimit(c.PID(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
}
