//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buildInside builds what runs inside, as a static program.
var buildInside = sync.OnceValues(func() (string, error) {
	path := filepath.Join(run.dir, "inside")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/inside")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build what runs inside: %w\n%s", err, out)
	}
	return path, nil
})

func insideProgram(t testing.TB) string {
	t.Helper()
	path, err := buildInside()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// mostOf32M is what iperf3 prints of 32 MB: its receiver stops counting when the sender says
// that it is done, and by then not all has come.
const mostOf32M = "[23][0-9][.][0-9] MBytes .* receiver"

// Proves that a command of an ordinary user gets a whole network of its own.
func TestRunGivesACommandANetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lan.ns.IP("address", "add", "fd00:77::1/64", "dev", "br0", "nodad")
	inside := insideProgram(t)
	for program, from := range map[string]string{"iperf3": "iperf3", "dig": "bind9-dnsutils", "chromium": "chromium"} {
		needTool(t, program, from)
	}
	iperf := start(t, "iperf3", w.lan.ns.Command("iperf3", "--server", "--forceflush"))
	iperf.WaitLog("Server listening", 10*time.Second)
	home := filepath.Join(run.dir, w.cli.name+"-home")
	if err := os.Mkdir(home, 0o777); err != nil || os.Chmod(home, 0o777) != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		argv []string
		want string // in the output
	}{
		{"dig", []string{"dig", "+short", siteName}, lanGateway + "\n"},
		{"dig at a server", []string{"dig", "+tcp", "+short", "@" + lanGateway, siteName}, lanGateway + "\n"},
		{"a browser", []string{"env", "HOME=" + home, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
			"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
			"--user-data-dir=" + home, "--dump-dom", "http://" + siteName + "/"}, strings.TrimSpace(sitePage)},
		{"curl by name", []string{"curl", "-sS", "--max-time", "10", "http://" + siteName + "/"}, sitePage},
		{"names by the C library", []string{"getent", "ahostsv4", "files"}, lanGateway},
		{"names by a static program", []string{inside, "lookup", siteName}, "[" + lanGateway + "]"},
		{"a static program", []string{inside, "get", "http://" + siteName + "/"}, sitePage},
		{"ping", []string{"ping", "-n", "-c", "2", "-W", "5", lanGateway}, " 0% packet loss"},
		{"IPv6", []string{"sh", "-c", "ping -n -6 -c 1 -W 1 ff02::1%vpn0; ip -6 address show dev vpn0"}, "inet6 fe80:"},
		{"its interfaces, and no other", []string{"sh", "-c", "ip -o link | wc -l; ip -o link | cut -d: -f2"}, "2\n lo\n vpn0\n"},
		{"loopback", []string{"ping", "-n", "-c", "1", "127.0.0.1"}, " 0% packet loss"},
		{"name servers", []string{"cat", "/etc/resolv.conf"}, "nameserver " + lanGateway + "\nsearch " + lanDomain + "\n"},
		{"sources of names", []string{"sh", "-c", "grep ^hosts: /etc/nsswitch.conf; ls /run/systemd/resolve /run/nscd 2>/dev/null; true"}, "hosts: files dns\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, errs, code := w.Run(t, runFlags, row.argv...)
			if !strings.Contains(out, row.want) || code != 0 {
				t.Errorf("got %q, exit code %d, want %q\n%s", out, code, row.want, errs)
			}
		})
	}
	for _, row := range []struct{ name, args, want string }{
		{"iperf3 up", "--bytes 32M --format m", mostOf32M},
		{"iperf3 down", "--bytes 32M --format m --reverse", mostOf32M},
		{"iperf3 by UDP", "--udp --bytes 1M --bitrate 20M", `\(0%\)  receiver`},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, errs, code := w.Run(t, runFlags, append([]string{"iperf3", "--client", lanGateway}, strings.Fields(row.args)...)...)
			if !regexp.MustCompile(row.want).MatchString(out) || code != 0 {
				t.Errorf("got %q, exit code %d, want %q\n%s", out, code, row.want, errs)
			}
		})
	}
	if page, err := w.Curl("--max-time", "1", "http://"+w.siteAddress()+"/"); err == nil {
		t.Errorf("the page is there without a tunnel: %q", page)
	}
}

// Proves that the command is started as if by the shell, and ends so too.
func TestRunStartsTheCommandAsIfDirectly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inside := insideProgram(t)
	for _, row := range []struct {
		name, script string
		want         string // the whole output
		code         int
	}{
		{"exit code", "exit 42", "", 42},
		{"a signal's", "kill -TERM $$", "", 128 + 15},
		{"ids", "id -u; id -g; id -nu", "65534\n65534\nnobody\n", 0},
		{"no capabilities", "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2 | sort -u", "0000000000000000\n", 0},
		{"a file of its own", "f=$(mktemp) && echo mine >$f && stat -c %u $f && cat $f && rm $f", "65534\nmine\n", 0},
		{"environment but for the password", "echo $MARK $SOFTETHER_PASS.", "kept .\n", 0},
		{"init as its parent", "cut -c1-12 /proc/$PPID/comm; readlink /proc/$PPID/exe", "softether-go\n", 1},
		{"what it leaves behind goes on", inside + " orphan " + lanGateway + ":80; exit 3", "later <nil>\n", 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := w.RunCommand(runFlags.with(flags{"pass": absent}), "sh", "-c", row.script)
			cmd.Env = append(cmd.Env, "MARK=kept", "SOFTETHER_PASS="+userPassword)
			out, errs, code := finish(t, cmd)
			if out != row.want || code != row.code {
				t.Errorf("got %q, exit code %d, want %q, %d\n%s", out, code, row.want, row.code, errs)
			}
		})
	}
	t.Run("standard input, directory and descriptors", func(t *testing.T) {
		r, pw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		fmt.Fprintln(pw, "by three")
		pw.Close()
		cmd := w.RunCommand(runFlags, "sh", "-c", "cat; pwd; cat <&3; echo 'an argument' \"$1\"", "sh", "of two words")
		cmd.Stdin, cmd.Dir, cmd.ExtraFiles = strings.NewReader("by input\n"), "/usr/lib", []*os.File{r}
		out, errs, code := finish(t, cmd)
		if want := "by input\n/usr/lib\nby three\nan argument of two words\n"; out != want || code != 0 {
			t.Errorf("got %q, exit code %d, want %q\n%s", out, code, want, errs)
		}
	})
	t.Run("no other process's descriptors", func(t *testing.T) {
		list := []string{"ls", "/proc/self/fd"}
		want, _, _ := finish(t, w.asUser(list...))
		if got, errs, _ := w.Run(t, runFlags, list...); got != want || want == "" {
			t.Errorf("got %q, want %q as without a network of its own\n%s", got, want, errs)
		}
	})
	t.Run("a command that is not there", func(t *testing.T) {
		sessions := len(w.srv.Sessions(userName))
		_, errs, code := w.Run(t, runFlags, "no-such-command")
		if code != 127 || !strings.Contains(errs, "no-such-command") {
			t.Errorf("got exit code %d with %q, want 127 and its name", code, errs)
		}
		_, errs, code = w.Run(t, runFlags, "/etc/passwd")
		if code != 126 || !strings.Contains(errs, "/etc/passwd") {
			t.Errorf("got exit code %d with %q, want 126 and its name", code, errs)
		}
		if got := len(w.srv.Sessions(userName)); got > sessions {
			t.Errorf("the server heard of it: %d sessions, before %d", got, sessions)
		}
	})
	t.Run("a wrong password", func(t *testing.T) {
		out, errs, code := w.Run(t, runFlags.with(flags{"pass": "wrong"}), "echo", "started")
		if code != exitServerRefused || out != "" || !strings.Contains(errs, "password") {
			t.Errorf("got exit code %d with %q, %q, want %d before the command starts", code, out, errs, exitServerRefused)
		}
	})
	if log := "" + w.lan.dhcp.Log(); strings.Count(log, "DHCPRELEASE") == 0 {
		t.Error("no lease was given back")
	}
}

// Proves that a command may capture packets if that was asked for, and has no other power.
func TestRunLetsTheCommandCapture(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	capture := []string{insideProgram(t), "capture", lanGateway + ":80"}
	if out, errs, code := w.Run(t, runFlags.with(flags{"capture": "true"}), capture...); out != "captured\n" || code != 0 {
		t.Errorf("got %q, exit code %d\n%s", out, code, errs)
	}
	if out, errs, code := w.Run(t, runFlags, capture...); code != 1 || !strings.Contains(errs, "not permitted") {
		t.Errorf("without being asked: got %q, exit code %d\n%s", out, code, errs)
	}
	const caps = "grep CapEff /proc/self/status | cut -f2; ip link set vpn0 down 2>&1 | grep -c 'not permitted'"
	if out, errs, code := w.Run(t, runFlags.with(flags{"capture": "true"}), "sh", "-c", caps); out != "0000000000002000\n1\n" || code != 0 {
		t.Errorf("capabilities: got %q, exit code %d, want CAP_NET_RAW alone\n%s", out, code, errs)
	}
}

// Proves that the command gets an IPv6 address from the VPN's router, unless not wanted.
func TestRunHasIPv6FromRouters(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	const router = "fd00:77::1"
	w.lan.ns.IP("address", "add", router+"/64", "dev", "br0", "nodad")
	w.lan.Dnsmasq(usualLease, "--enable-ra", "--dhcp-range=fd00:77::,ra-only", "--dhcp-option=option:dns-server", "--host-record="+inside6+","+router)
	script := "for i in $(seq 100); do ping -n -6 -c 1 -W 1 " + router + " >/dev/null 2>&1 && echo reached && exit; sleep 0.1; done"
	if out, errs, code := w.Run(t, runFlags, "sh", "-c", script); out != "reached\n" || code != 0 {
		t.Errorf("got %q, exit code %d\n%s", out, code, errs)
	}
	// Names are asked of the server that the router names, which may be on the link alone.
	script = "for i in $(seq 100); do grep -q 'nameserver fe80::.*%vpn0' /etc/resolv.conf && curl --silent --max-time 5 http://" + inside6 + "/ && exit; sleep 0.1; done"
	if out, errs, code := w.Run(t, runFlags, "sh", "-c", script); out != sitePage || code != 0 {
		t.Errorf("a page by name: got %q, exit code %d\n%s", out, code, errs)
	}
	if out, errs, code := w.Run(t, runFlags.with(flags{"no-ipv6": "true"}), "sh", "-c", "ip -6 -o address show dev vpn0; echo none"); out != "none\n" || code != 0 {
		t.Errorf("with -no-ipv6: got %q, exit code %d\n%s", out, code, errs)
	}
}

// exitServerRefused is the exit code for a refusal of the server, for good.
const exitServerRefused = 3

// Proves that signals for the program reach the command.
func TestRunPassesSignalsOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := start(t, "run", w.RunCommand(runFlags, insideProgram(t), "signals"))
	p.WaitLog("waiting", upTime)
	for sig, want := range map[syscall.Signal]string{
		syscall.SIGINT: "got interrupt", syscall.SIGHUP: "got hangup", syscall.SIGUSR1: "got user defined signal 1",
	} {
		p.Signal(sig)
		p.WaitLog(want, upTime)
	}
	p.Terminate()
	if n := strings.Count(p.Log(), "got "); n != 4 {
		t.Errorf("got %d signals, want 4:\n%s", n, p.Log())
	}
}

// Proves that a server inside is reached from the VPN and from the host.
func TestRunServesInsideAndOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := runFlags.with(flags{"publish": "8080:80,0.0.0.0:8081:80,udp/5353:53"})
	p := start(t, "run", w.RunCommand(f, "sh", "-c", insideProgram(t)+" echo :53 & exec "+insideProgram(t)+" serve :80"))
	p.WaitLog(`serving at \S+ \.`, upTime)
	_, rest, _ := strings.Cut(p.Log(), "serving at ")
	own, _, _ := strings.Cut(rest, " ")
	body := strings.Repeat("x", 300000)
	want := "inside got 300000 bytes"
	if out, err := w.lan.ns.Command("curl", "-sS", "--max-time", "10", "-d", body[:1000], "http://"+own+"/").Output(); string(out) != "inside got 1000 bytes" {
		t.Errorf("from the VPN: got %q, %v", out, err)
	}
	file := filepath.Join(run.dir, "body-"+w.cli.name)
	if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"127.0.0.1:8080", clientAddress + ":8081"} {
		if out, err := w.Curl("--max-time", "10", "--data-binary", "@"+file, "http://"+at+"/"); out != want {
			t.Errorf("at %s: got %q, %v, want %q", at, out, err, want)
		}
	}
	if out, err := w.Curl("--max-time", "5", "http://"+clientAddress+":8080/"); err == nil {
		t.Errorf("a port of loopback is open to others: got %q", out)
	}
	eventually(t, upTime, "an echo by UDP", func() error {
		out, err := w.cli.Command("bash", "-c", "exec 3<>/dev/udp/127.0.0.1/5353; echo hello >&3; timeout 2 head -n 1 <&3").Output()
		if string(out) != "hello\n" {
			return fmt.Errorf("got %q, %v", out, err)
		}
		return nil
	})
	// The first ends the server, which the program waits for; then there is only what
	// the shell has left behind.
	eventually(t, upTime, "it ends", func() error {
		if !p.Running() {
			return nil
		}
		return fmt.Errorf("not yet: %v", p.cmd.Process.Signal(syscall.SIGTERM))
	})
	if got := p.ExitCode(upTime); got != 128+15 {
		t.Errorf("exit code: got %d, want the command's", got)
	}
	busy := w.cli.Listen("127.0.0.1:8080")
	defer busy.Close()
	if out, errs, code := w.Run(t, f, "echo", "started"); code != 1 || out != "" || !strings.Contains(errs, "publish: forward 127.0.0.1:8080 to tcp/80: the port is in use: ") {
		t.Errorf("a port that is taken: got exit code %d, %q, %q", code, out, errs)
	}
}

// finish runs a prepared command and returns its output and exit code.
func finish(t testing.TB, cmd *exec.Cmd) (out, errs string, code int) {
	t.Helper()
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(runTime, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, e.String())
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}
