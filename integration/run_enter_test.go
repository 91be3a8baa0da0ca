//go:build linux

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// Proves that a namespace that is there already, as a rootless container's, is given the
// network by an ordinary user, who leaves it when asked and when it ends.
func TestRunEntersANamespaceOfOnesOwn(t *testing.T) {
	t.Parallel()
	needTool(t, "nsenter", "util-linux")
	w := newWorld(t)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	contained := func() (p *process, pid string) {
		p = start(t, "contained", w.asUser("unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo there; exec sleep 1000"))
		p.WaitLog("there", upTime)
		return p, strconv.Itoa(p.PID())
	}
	in := func(pid string, argv ...string) (string, error) {
		cmd := w.asUser(append([]string{"nsenter", "--target", pid, "--user", "--net", "--preserve-credentials"}, argv...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	enter := func(pid string) *process {
		p := start(t, "run", w.asUser(append([]string{client, "run", "-pid", pid}, runFlags.args()...)...))
		p.WaitLog("name servers of the VPN.*"+lanGateway, upTime)
		return p
	}

	c, pid := contained()
	p := enter(pid)
	page := func() error {
		out, err := in(pid, "curl", "-sS", "--max-time", "5", "http://"+lanGateway+"/")
		if out != sitePage {
			return fmt.Errorf("got %q, %v", out, err)
		}
		return nil
	}
	eventually(t, upTime, "the page from inside", page)
	p.Terminate()
	if out, err := in(pid, "ip", "-o", "link"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("afterwards: got %q, %v, want loopback alone", out, err)
	}
	p = enter(pid)
	eventually(t, upTime, "the page from inside again", page)
	c.Kill()
	if got := p.ExitCode(upTime); got != exitStopped {
		t.Errorf("when the namespace ended: exit code %d, want %d", got, exitStopped)
	}

	_, pid = contained()
	if out, err := in(pid, "sh", "-c", "ip link set lo up && ip route add default dev lo"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, errs, code := finish(t, w.asUser(append([]string{client, "run", "-pid", pid}, runFlags.args()...)...))
	if code != 1 || !strings.Contains(errs, "a way out already") {
		t.Errorf("a network that has a way out: got exit code %d with %q", code, errs)
	}
}

// Proves that root can give the network to any namespace by its path.
func TestRunEntersANamespaceByItsPath(t *testing.T) {
	t.Parallel()
	needTool(t, "nsenter", "util-linux")
	w := newWorld(t)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	ns := newNetns(t, "app")
	holder := start(t, "holder", ns.Command("sleep", "1000"))
	path := fmt.Sprintf("/proc/%d/ns/net", holder.PID())
	eventually(t, upTime, "the namespace is entered", func() error {
		if out, err := ns.Command("true").CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	p := start(t, "run", w.rootCommand(append([]string{client, "run", "-netns", path}, runFlags.args()...)...))
	p.WaitLog("name servers of the VPN", upTime)
	eventually(t, upTime, "the page from inside", func() error {
		out, err := ns.Command("curl", "-sS", "--max-time", "5", "http://"+lanGateway+"/").Output()
		if string(out) != sitePage {
			return fmt.Errorf("got %q, %v", out, err)
		}
		return nil
	})
	p.Terminate()
}
