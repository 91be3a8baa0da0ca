package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/config"
)

// startLab runs the demo's hub until the test ends, and returns flags to join it.
func startLab(t *testing.T) (*demonstration, []string) {
	t.Helper()
	d := &demonstration{t: terminal{err: io.Discard}, password: "geheim"}
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	if err := d.startHub(ctx, g); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("the hub has ended by itself: %v", err)
		}
	})
	return d, []string{"-host", d.addr.String(), "-hub", "DEMO", "-user", "demo", "-pass", d.password,
		"-pin", config.Pin(d.hub.Fingerprint()).String()}
}

// callWith is call with something to read on standard input.
func callWith(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		io.WriteString(w, in)
		w.Close()
	}()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	code = dispatch(ctx, args, terminal{in: r, out: &o, err: &e})
	return code, o.String(), e.String()
}

func TestNetcatIsQuietAndPassesOnTheEnd(t *testing.T) {
	_, flags := startLab(t)
	ask := "GET / HTTP/1.0\r\nHost: hub.demo\r\n\r\n"
	code, out, errs := callWith(t, ask, append(append([]string{"nc"}, flags...), "hub.demo", "80")...)
	if code != exitOK || !strings.Contains(out, "It works") || errs != "" {
		t.Errorf("exit %d with %q and %q, want the page and nothing else", code, out, errs)
	}
}

func TestNetcatSaysWhyNot(t *testing.T) {
	_, flags := startLab(t)
	for _, row := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"a port where nobody listens", append(flags, "hub.demo", "81"), exitFailure, "refused"},
		{"a name that nobody knows", append(flags, "nobody.demo", "80"), exitFailure, "nobody.demo"},
		{"another password", append(append([]string{}, flags...), "-pass", "guess", "hub.demo", "80"), exitRefused, "password"},
		{"no port", append(flags, "-insecure", "hub.demo"), exitUsage, "HOST"},
		{"proxies", append(flags, "-listen", "127.0.0.1:0", "hub.demo", "80"), exitUsage, "-listen"},
	} {
		code, out, errs := callWith(t, "", append([]string{"nc"}, row.args...)...)
		if code != row.code || out != "" || !strings.Contains(strings.ToLower(errs), strings.ToLower(row.want)) {
			t.Errorf("%s: exit %d with %q and %q, want %d with %q", row.name, code, out, errs, row.code, row.want)
		}
	}
}

// The ports that the flags ask for work, in both directions, and names are answered.
func TestForwardsOfTheCommand(t *testing.T) {
	_, flags := startLab(t)
	home, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	go func() {
		for {
			c, err := home.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "home")
			c.Close()
		}
	}()
	web, names := freePort(t), freePort(t)
	_, homePort, _ := net.SplitHostPort(home.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	errs := new(syncBuffer)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	code := make(chan int, 1)
	args := append(flags, "-L", web+":hub.demo:80", "-R", "7000:127.0.0.1:"+homePort, "-dns-listen", names)
	go func() { code <- dispatch(ctx, args, terminal{in: null, out: io.Discard, err: errs}) }()
	errs.await(t, "tunnel up")

	c, err := net.Dial("tcp", "127.0.0.1:"+web)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.0\r\nHost: hub.demo\r\n\r\n")
	if page, err := io.ReadAll(c); err != nil || !strings.Contains(string(page), "It works") {
		t.Errorf("-L: %q, %v", page, err)
	}
	c.Close()

	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+names)
	}}
	if got, err := r.LookupHost(t.Context(), "hub.demo."); err != nil || len(got) != 1 || got[0] != "10.77.0.1" {
		t.Errorf("-dns-listen: %v, %v", got, err)
	}

	address := between(errs.String(), "address=10.77.0.", "/")
	ncCode, out, ncErrs := callWith(t, "", append(append([]string{"nc"}, flags...), "10.77.0."+address, "7000")...)
	if ncCode != exitOK || out != "home" {
		t.Errorf("-R: exit %d with %q, %q", ncCode, out, ncErrs)
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("exit %d:\n%s", got, errs.String())
	}
	for _, want := range []string{"forward.accepted=1", "reverse.accepted=1", "dns.answered="} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("the counters lack %s:\n%s", want, errs.String())
		}
	}
}

func between(s, from, to string) string {
	_, rest, _ := strings.Cut(s, from)
	word, _, _ := strings.Cut(rest, to)
	return word
}

// freePort returns a port of loopback that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}
