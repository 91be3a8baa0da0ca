//go:build linux

package integration

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	farHost    = "10.202.0.2" // behind the LAN's router
	farRouter  = "10.202.0.1"
	farHost6   = "2001:db8:202::2"
	farRouter6 = "2001:db8:202::1"
	narrowMTU  = 1300 // of the link there, as the router has it
	closedPort = "4444"
)

// tool runs a command of ours that uses the VPN itself, and returns its output and code.
func (w *world) tool(t testing.TB, input, command string, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := w.clientCommand(append(append([]string{command}, w.toolFlags()...), args...)...)
	cmd.Env = append(cmd.Env, "SOFTETHER_PASS="+userPassword)
	cmd.Stdin = strings.NewReader(input)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", command, err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func (*world) toolFlags() []string {
	return []string{"-host", serverAddress, "-hub", hubName, "-user", userName, "-insecure", "-log-level", "error"}
}

// sshd serves in the LAN, and returns a config file for ssh that gets there by nc.
func (w *world) sshd() (config string) {
	w.t.Helper()
	const program = "/usr/sbin/sshd"
	needTool(w.t, program, "openssh-server")
	needTool(w.t, "ssh", "openssh-client")
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	dir := w.t.TempDir()
	file := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
		return f
	}
	for _, key := range []string{"host", "user"} {
		command(w.t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key))
	}
	public, err := os.ReadFile(filepath.Join(dir, "user.pub"))
	if err != nil {
		w.t.Fatal(err)
	}
	keys := file("authorized_keys", string(public))
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // which sshd wants to be chrooted to
		w.t.Fatal(err)
	}
	conf := file("sshd_config", fmt.Sprintf("ListenAddress %s:22\nHostKey %s/host\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n",
		lanGateway, dir, keys))
	p := start(w.t, "sshd", w.lan.ns.Command(program, "-D", "-e", "-f", conf))
	p.WaitLog("Server listening", 10*time.Second)
	return file("ssh_config", fmt.Sprintf("Host *\n\tUser root\n\tIdentityFile %s/user\n\tUserKnownHostsFile %s/known\n\tStrictHostKeyChecking accept-new\n\tBatchMode yes\n"+
		"\tProxyCommand %s nc %s %%h %%p\n", dir, dir, path, strings.Join(w.toolFlags(), " ")))
}

// far makes a host behind the LAN's router, over a link that is narrower than it says.
func (l *lan) far() *netns {
	l.t.Helper()
	needTool(l.t, "nft", "nftables")
	far := newNetns(l.t, "far")
	l.ns.IP("link", "add", "eth1", "mtu", fmt.Sprint(narrowMTU), "type", "veth", "peer", "name", "eth0", "netns", far.name)
	l.ns.IP("address", "add", farRouter+"/24", "dev", "eth1")
	l.ns.IP("link", "set", "eth1", "up")
	far.IP("address", "add", farHost+"/24", "dev", "eth0")
	far.IP("link", "set", "eth0", "up")
	far.IP("route", "add", "default", "via", farRouter)
	far.IP("address", "add", farHost6+"/64", "dev", "eth0", "nodad")
	far.IP("route", "add", "default", "via", farRouter6)
	l.ns.IP("address", "add", farRouter6+"/64", "dev", "eth1", "nodad")
	l.ns.IP("address", "add", lanGateway6+"/64", "dev", "br0", "nodad")
	l.ns.Set("net/ipv6/conf/all/forwarding", "1")
	l.ns.Set("net/ipv4/ip_forward", "1")
	l.ns.NFT("table ip6 walls { chain forward { type filter hook forward priority 0; tcp dport " + closedPort + " reject with icmpv6 type admin-prohibited; }; }")
	l.ns.NFT("table ip walls { chain forward { type filter hook forward priority 0; tcp dport " + closedPort + " reject with icmp type admin-prohibited; }; }")
	startSite(l.t, far)
	return far
}

// What the commands that use the VPN themselves are for: ssh and git by ProxyCommand, and
// to look at a network that one is not in.
func TestToolsOfTheVPN(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lan.far()
	own6 := "-address6 " + lanPrefix6 + ":5/64 -gateway6 " + lanGateway6 + " "
	t.Run("ssh by nc and ncat, git by nc", func(t *testing.T) {
		t.Parallel()
		w := w.in(t)
		config := w.sshd()
		out, errs, code := w.cli.run(t, "typed\n", "ssh", "-F", config, siteName, "cat; echo there; exit 7")
		if out != "typed\nthere\n" || code != 7 || strings.Contains(errs, "level=") {
			t.Errorf("ssh: %q, %q, exit %d", out, errs, code)
		}
		needTool(t, "ncat", "ncat")
		w.StartClient(usualFlags.with(flags{"listen": mixedProxy})).WaitUp()
		readme := "ProxyCommand=ncat --proxy-type socks5 --proxy " + mixedProxy + " %h %p"
		out, errs, code = w.cli.run(t, "typed\n", "ssh", "-F", config, "-o", readme, siteName, "cat; echo there; exit 7")
		if out != "typed\nthere\n" || code != 7 {
			t.Errorf("ssh by ncat: %q, %q, exit %d", out, errs, code)
		}
		needTool(t, "git", "git")
		repo, clone := filepath.Join(t.TempDir(), "repo"), filepath.Join(t.TempDir(), "clone")
		command(t, "git", "init", "--quiet", repo)
		big, err := io.ReadAll(streamOf("git", 2<<20))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, "big"), big, 0o644); err != nil {
			t.Fatal(err)
		}
		command(t, "git", "-C", repo, "add", "big")
		command(t, "git", "-C", repo, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--quiet", "-m", "x")
		_, errs, code = w.cli.run(t, "", "git", "-c", "core.sshCommand=ssh -F "+config, "clone", "--quiet", "ssh://"+siteName+repo, clone)
		got, err := os.ReadFile(filepath.Join(clone, "big"))
		if code != 0 || err != nil || sumOfString(string(got)) != sumOf("git", 2<<20) {
			t.Errorf("git clone: exit %d, %s, %d bytes, %v", code, errs, len(got), err)
		}
	})
	t.Run("nc fails as it should", func(t *testing.T) {
		t.Parallel()
		six := strings.Replace(own6, ":5/64", ":6/64", 1)
		for _, row := range []struct{ host, port, want string }{
			{lanGateway, "81", "refused"},
			{"nobody.corp", "22", "no such host"},
			{farHost, closedPort, "permission denied"}, // by a router
			{six + farHost6, closedPort, "permission denied"},
			{six + "2001:db8:202::99", "22", "no route"}, // says the router
			{lanGateway[:len(lanGateway)-1] + "9", "22", "no route"},
		} {
			out, errs, code := w.tool(t, "", "nc", append(strings.Fields(row.host), row.port)...)
			if code != 1 || out != "" || !strings.Contains(errs, row.want) {
				t.Errorf("nc %s %s: exit %d with %q and %q, want 1 with %q", row.host, row.port, code, out, errs, row.want)
			}
		}
	})
	t.Run("ping", func(t *testing.T) {
		t.Parallel()
		for _, row := range []struct {
			args string
			code int
			want string
		}{
			{"-count 3 -interval 50ms files.corp", 0, `3 packets transmitted, 3 received, 0% packet loss`},
			{"-count 1 -df -size 1472 files.corp", 0, `1480 bytes from 10\.200\.0\.1: icmp_seq=1 ttl=64 time=`},
			{"-count 1 " + farHost, 0, `64 bytes from 10\.202\.0\.2: icmp_seq=1 ttl=63`},
			{"-count 1 -ttl 1 " + farHost, 1, `From 10\.200\.0\.1 icmp_seq=1 Time to live exceeded`},
			{"-count 1 -df -size 1400 " + farHost, 1, `From 10\.200\.0\.1 icmp_seq=1 Frag needed and DF set \(mtu = 1300\)`},
			{"-count 1 10.202.0.99", 1, `From 10\.200\.0\.1 icmp_seq=1 Destination Host Unreachable`},
			{"-count 2 -interval 50ms 10.200.0.99", 1, `From 10\.200\.0\.\d+ icmp_seq=2 Destination Host Unreachable`}, // from us
			{own6 + "-count 1 " + lanPrefix6 + ":99", 1, `From 2001:db8:200::5 icmp_seq=1 Destination Host Unreachable`},
			{own6 + "-count 1 -6 " + farHost6, 0, `64 bytes from 2001:db8:202::2: icmp_seq=1 ttl=63`},
			{own6 + "-count 1 -ttl 1 " + farHost6, 1, `From 2001:db8:.* icmp_seq=1 Time to live exceeded`},
			{own6 + "-count 1 -df -size 1400 " + farHost6, 1, `From 2001:db8:.* icmp_seq=1 Frag needed and DF set \(mtu = 1300\)`},
		} {
			out, errs, code := w.tool(t, "", "ping", strings.Fields(row.args)...)
			if code != row.code || !regexp.MustCompile(row.want).MatchString(out) {
				t.Errorf("ping %s: exit %d with %s%s, want %d with %q", row.args, code, out, errs, row.code, row.want)
			}
		}
	})
	t.Run("traceroute", func(t *testing.T) {
		t.Parallel()
		if out, errs, code := w.tool(t, "", "traceroute", strings.Fields(own6+farHost6)...); code != 0 || !regexp.MustCompile(`\n 2  2001:db8:202::2 `).MatchString(out) {
			t.Errorf("by IPv6: exit %d with %s%s", code, out, errs)
		}
		out, errs, code := w.tool(t, "", "traceroute", farHost)
		want := regexp.MustCompile(`(?s)^traceroute to 10\.202\.0\.2 .*\n 1  10\.200\.0\.1 .* ms\n 2  10\.202\.0\.2 .* ms\n$`)
		if code != 0 || !want.MatchString(out) {
			t.Errorf("exit %d with %s%s", code, out, errs)
		}
	})
	t.Run("a router that prohibits is believed", func(t *testing.T) {
		t.Parallel()
		w := w.in(t)
		w.StartClient(usualFlags).WaitUp()
		_, errs, code := w.cli.run(t, "", "curl", "--silent", "--show-error", "--proxy", "socks5://"+socksProxy, "http://"+farHost+":"+closedPort+"/")
		if code != 97 || !strings.Contains(errs, "(2)") { // not allowed by ruleset (RFC 1928, 6)
			t.Errorf("a router that prohibits: curl ends with %d and %s", code, errs)
		}
	})
}
