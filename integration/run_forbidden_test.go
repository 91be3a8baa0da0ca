//go:build linux

package integration

import (
	"strings"
	"testing"
)

// Proves that where the host does not allow it, one line says why and what to do, and
// the command is not started.
func TestRunSaysWhatForbidsIt(t *testing.T) {
	t.Parallel()
	w := &world{t: t, cli: newNetns(t, "cli")}
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	program := append(append([]string{client, "run"}, runFlags.args()...), "--", "echo", "started")
	inUserns := func(script string) []string {
		return append([]string{"unshare", "--user", "--map-root-user", "sh", "-c", script + `; exec "$@"`, "sh"}, program...)
	}
	for _, row := range []struct {
		name string
		argv []string
		want string
	}{
		{"no network namespaces", inUserns("echo 0 >/proc/sys/user/max_net_namespaces"), "sysctl -w user.max_net_namespaces="},
		{"no mount namespaces", inUserns("echo 0 >/proc/sys/user/max_mnt_namespaces"), "sysctl -w user.max_mnt_namespaces="},
		{"no device file", append([]string{"unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
			`mount -t tmpfs tmpfs /dev/net; exec "$@"`, "sh"}, program...), "modprobe tun"},
		{"a device file for root alone", append([]string{"unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
			`mount -t tmpfs tmpfs /dev/net; : >/dev/net/tun; chmod 0 /dev/net/tun; exec unshare --user --map-user=5 "$@"`, "sh"}, program...),
			`KERNEL=="tun", MODE="0666"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, errs, code := finish(t, w.asUser(row.argv...))
			if code != 1 || out != "" || !strings.Contains(errs, row.want) || strings.Count(errs, "\n") != 1 {
				t.Errorf("got exit code %d, output %q and %q; want 1, nothing and one line with %q", code, out, errs, row.want)
			}
		})
	}
	t.Run("the profile for AppArmor", func(t *testing.T) {
		out, errs, code := finish(t, w.asUser(client, "run", "-print-apparmor-profile"))
		if code != 0 || !strings.Contains(out, `"`+client+`" flags=(unconfined)`) || !strings.Contains(out, "userns,") {
			t.Errorf("got exit code %d and %q\n%s", code, out, errs)
		}
	})
}

// Proves that root, and who is root in a namespace as in a rootless container, can too,
// the one without losing any power over files.
func TestRunAsRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	script := "id -u; stat -c %U /proc/1/status; curl -sS --max-time 10 http://" + siteName + "/"
	program := append(append([]string{client, "run"}, runFlags.args()...), "--", "sh", "-c", script)
	if out, errs, code := finish(t, w.rootCommand(program...)); out != "0\nroot\n"+sitePage || code != 0 {
		t.Errorf("root: got %q, exit code %d\n%s", out, code, errs)
	}
	contained := append([]string{"unshare", "--user", "--map-root-user"}, program...)
	if out, errs, code := finish(t, w.asUser(contained...)); out != "0\nnobody\n"+sitePage || code != 0 {
		t.Errorf("root of a namespace: got %q, exit code %d\n%s", out, code, errs)
	}
}

// Proves that where the host does not allow a network of its own, and only if that is
// asked for, the command is told of proxies which nobody else can use.
func TestRunFallsBackToProxiesWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	proxied := func(script string) (string, string, int) {
		argv := []string{"unshare", "--user", "--map-root-user", "sh", "-c", `echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"`, "sh", client, "run"}
		return finish(t, w.asUser(append(append(argv, runFlags.with(flags{"proxy-env": "true"}).args()...), "--", "sh", "-c", script)...))
	}
	for _, script := range []string{
		"curl -sS --max-time 10 http://" + siteName + "/",
		"unset http_proxy HTTP_PROXY; curl -sS --max-time 10 http://" + siteName + "/",
	} {
		if out, errs, code := proxied(script); out != sitePage || code != 0 || !strings.Contains(errs, "beside the VPN") {
			t.Errorf("%s: got %q, exit code %d\n%s", script, out, code, errs)
		}
	}
	if out, _, code := proxied(`p=${ALL_PROXY##*@}; curl -sS --max-time 5 --noproxy '' -x socks5h://$p http://` + siteName + `/ || exit 42`); code != 42 {
		t.Errorf("without what only the command is told: got %q, exit code %d, want no page", out, code)
	}
	if out, _, code := proxied("kill -TERM $$"); out != "" || code != 128+15 {
		t.Errorf("a signal: got %q, exit code %d, want %d", out, code, 128+15)
	}
	if out, errs, code := w.Run(t, runFlags.with(flags{"proxy-env": "true"}), "sh", "-c", "echo .$ALL_PROXY; ip -o link | wc -l"); out != ".\n2\n" || code != 0 {
		t.Errorf("where it is allowed: got %q, exit code %d, want a network of its own\n%s", out, code, errs)
	}
}
