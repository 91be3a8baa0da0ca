package hubtest

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/session/sessiontest"
)

var greeting = Flow{
	{Client, []byte("hello, this is a client with more to say than a line holds")},
	{Server, []byte("hello")},
	{Client, []byte{0, 1, 2, '|', 0xff}},
}

func TestAFlowSurvivesItsText(t *testing.T) {
	got, err := ParseFlow(greeting.String())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(greeting, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTextThatIsNoFlow(t *testing.T) {
	for name, text := range map[string]string{
		"bytes of nobody": "00000000  68 65\n",
		"no dump":         ">>> client\nhello\n",
		"no hex":          ">>> client\n00000000  6x 65 \n",
		"half a byte":     ">>> client\n00000000  6 \n",
	} {
		if f, err := ParseFlow(text); err == nil {
			t.Errorf("%s: read as %v", name, f)
		}
	}
	if _, err := ReadFlow(filepath.Join(t.TempDir(), "none.flow")); err == nil {
		t.Error("a file that is not there was read")
	}
}

func FuzzParseFlow(f *testing.F) {
	f.Add(greeting.String())
	f.Add("<<< server\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		flow, err := ParseFlow(text)
		if err != nil {
			return
		}
		again, err := ParseFlow(flow.String())
		if err != nil || again.String() != flow.String() {
			t.Errorf("%q became %q, %v", text, again.String(), err)
		}
	})
}

// replayBoth plays both sides of two flows against each other.
func replayBoth(t *testing.T, client, server Flow) (asClient, asServer error) {
	t.Helper()
	a, b := Pipe()
	done := make(chan error)
	go func() {
		err := server.Replay(b, Server, nil)
		b.Close()
		done <- err
	}()
	asClient = client.Replay(a, Client, nil)
	a.Close()
	return asClient, <-done
}

func TestReplay(t *testing.T) {
	if c, s := replayBoth(t, greeting, greeting); c != nil || s != nil {
		t.Errorf("the same flow: client %v, server %v", c, s)
	}
	other := append(Flow{{Client, []byte(strings.ToUpper(string(greeting[0].Bytes)))}}, greeting[1:]...)
	if _, s := replayBoth(t, other, greeting); s == nil || !strings.Contains(s.Error(), "part 0") {
		t.Errorf("a client that differs: %v", s)
	}
	if c, _ := replayBoth(t, greeting, greeting[:1]); !errors.Is(c, io.EOF) {
		t.Errorf("a server that stops: %v", c)
	}
}

func TestTheRecorderHearsBothSides(t *testing.T) {
	cert := sessiontest.Certificate(t, nil)
	server := listen(t)
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if err := greeting.Replay(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}), Server, nil); err != nil {
			t.Error(err)
		}
	}()
	var r Recorder
	ln := listen(t)
	done := make(chan error)
	go func() {
		done <- r.Relay(ln, cert, func() (net.Conn, error) { return net.Dial("tcp", server.Addr().String()) })
	}()
	c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := greeting.Replay(c, Client, nil); err != nil {
		t.Error(err)
	}
	c.Close()
	ln.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the relay ended with %v", err)
	}
	if diff := cmp.Diff([]Flow{greeting}, r.Flows()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}
