//go:build linux

package integration

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Proves that what connections send is never cut: at a link that is narrower than the hub
// they are told so, by ICMP, and send what fits from then on.
func TestNarrowPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := w.lan.far()
	c := w.StartClient(usualFlags.with(flags{"L": "8000:" + farHost + ":80", "address6": lanPrefix6 + ":5/64", "gateway6": lanGateway6}))
	c.WaitUp()
	c.WaitPage("http://" + literal6(farHost6) + "/")
	const size = 1 << 20
	body := filepath.Join(t.TempDir(), "body")
	b, err := io.ReadAll(streamOf("narrow", size))
	if err == nil {
		err = os.WriteFile(body, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%d %s", size, sumOf("narrow", size))
	for _, row := range []struct {
		name, url, proxy string
		refused          string // of the router: what is too big for the link
		fragments        string // of the host behind it
	}{
		{"a forward", "http://127.0.0.1:8000/sink", "", "IpFragFails", "IpReasmReqds"},
		{"SOCKS5", "http://" + farHost + "/sink", "socks5h://" + socksProxy, "IpFragFails", "IpReasmReqds"},
		{"SOCKS5 by IPv6", "http://" + literal6(farHost6) + "/sink", "socks5h://" + socksProxy, "Icmp6OutPktTooBigs", "Ip6ReasmReqds"},
	} {
		t.Run(row.name, func(t *testing.T) {
			refused, fragments := w.lan.ns.counted(row.refused), far.counted(row.fragments)
			got, err := w.in(t).Curl("--proxy", row.proxy, "--max-time", "60", "--upload-file", body, row.url)
			if err != nil || got != want {
				t.Errorf("an upload: got %q, %v, want %q", got, err, want)
			}
			if n := w.lan.ns.counted(row.refused) - refused; n < 1 || n > size/narrowMTU/2 {
				t.Errorf("the router refused %d packets as too big, want a few of the first", n)
			}
			if n := far.counted(row.fragments) - fragments; n != 0 {
				t.Errorf("%d fragments have come, want none", n)
			}
		})
	}
}

// counted returns a counter of the namespace's kernel, as nstat has it.
func (n *netns) counted(name string) int {
	n.t.Helper()
	out := n.output("nstat", "-asz", name)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			value, err := strconv.Atoi(f[1])
			if err != nil {
				n.t.Fatal(err)
			}
			return value
		}
	}
	n.t.Fatalf("no counter %s:\n%s", name, out)
	return 0
}
