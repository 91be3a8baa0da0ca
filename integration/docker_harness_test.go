//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	// dockerLabel is on all that a run has in Docker; its value is the run's id.
	dockerLabel = "softether-go-it"

	// dockerTime is how long Docker may take for what it does at once.
	dockerTime = time.Minute
)

// needDocker ends the test unless there is a Docker daemon on this machine. It skips
// with CI=true too: setup.sh installs programs, but starts no services.
func needDocker(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), dockerTime)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "version").CombinedOutput(); err != nil {
		t.Skipf("needs a Docker daemon: apt-get install docker.io && systemctl start docker (%v: %s)", err, out)
	}
}

// docker runs one of Docker's commands and returns what it prints, without the
// newline at the end.
func docker(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), dockerTime)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// removeDocker removes what a run has in Docker, if anything.
func removeDocker(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTime)
	defer cancel()
	for _, kind := range []struct {
		list, remove []string
	}{
		{[]string{"ps", "--all"}, []string{"rm", "--force"}},
		{[]string{"network", "ls"}, []string{"network", "rm"}},
		{[]string{"images"}, []string{"rmi", "--force"}},
	} {
		list := append(kind.list, "--quiet", "--filter", "label="+dockerLabel+"="+id)
		out, _ := exec.CommandContext(ctx, "docker", list...).Output()
		if ids := strings.Fields(string(out)); len(ids) > 0 {
			exec.CommandContext(ctx, "docker", append(kind.remove, ids...)...).Run()
		}
	}
}

// buildImage builds the released Dockerfile around the client, with ca in the place
// of the authorities of this machine, for the world of that number.
func buildImage(t testing.TB, ca *authority, number int64) string {
	t.Helper()
	tag := imageTag(fmt.Sprint("client", number))
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(run.dir, fmt.Sprint("image", number))
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"Dockerfile": "../Dockerfile", ".dockerignore": "../.dockerignore",
		"bin/softether-go": client, "bin/ca-certificates.crt": ca.file} {
		command(t, "cp", from, filepath.Join(dir, name))
	}
	docker(t, "build", "--quiet", "--label", dockerLabel+"="+run.id, "--tag", tag, dir)
	return tag
}

// openTUN is the device that makes interfaces, open to everybody as on most systems, for
// Docker's --device.
func openTUN(t testing.TB) string {
	t.Helper()
	path := filepath.Join(run.dir, "tun")
	if _, err := os.Stat(path); err != nil {
		command(t, "mknod", path, "c", "10", "200")
		command(t, "chmod", "666", path)
	}
	return path + ":/dev/net/tun"
}

// imageTag names an image of this run.
func imageTag(what string) string { return dockerLabel + "-" + run.id + ":" + what }

// buildVisitor builds the application, for a container without any tool.
var buildVisitor = sync.OnceValues(func() (string, error) {
	path := filepath.Join(run.dir, "visitor")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/visitor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the visitor: %w\n%s", err, out)
	}
	return path, nil
})

// A dockerWorld is a world whose clients are containers on a Docker network, which
// the server is on as well.
//
//	namespace …srv              host                         container
//	┌─────────────────┐        ┌──────────────────┐        ┌────────────────────┐
//	│ vpnserver, eth0 ├─ veth ─┤ br-… (Docker's)  ├─ veth ─┤ eth0, softether-go │
//	│ DNS: vpn.test   │        │ default gateway  │        │ vpn0               │
//	└─────────────────┘        └──────────────────┘        └────────────────────┘
//
// It wants no address of its own: Docker knows which ones are free.
type dockerWorld struct {
	*world
	network string
	server  string // the server's address on the network
	image   string
	visitor string // a program that prints a page
}

// dockerWorlds numbers them: what is of one in Docker has its number.
var dockerWorlds atomic.Int64

func newDockerWorld(t testing.TB) *dockerWorld {
	t.Helper()
	needRoot(t)
	needDocker(t)
	visitor, err := buildVisitor()
	if err != nil {
		t.Fatal(err)
	}
	ca, number := makeCA(t), dockerWorlds.Add(1)
	w := &dockerWorld{world: &world{t: t}, network: fmt.Sprintf("%s%s-%d", nsPrefix, run.id, number), image: buildImage(t, ca, number), visitor: visitor}
	docker(t, "network", "create", "--label", dockerLabel+"="+run.id, w.network)
	t.Cleanup(func() { docker(t, "network", "rm", w.network) })

	ns := newNetns(t, "srv")
	w.plugIn(ns, fmt.Sprint("se", run.id, number))
	w.nameServer(ns)
	w.srv = startServer(t, ns)
	w.srv.SetCertificate(ca.issue(t, serverHost))
	w.srv.CreateHub()
	w.lan = newLAN(t, w.srv)
	w.lan.Dnsmasq(usualLease)
	return w
}

// plugIn puts a namespace on the Docker network, by an interface of the host that goes
// with it. It has the last address there is: Docker gives out the first ones.
func (w *dockerWorld) plugIn(ns *netns, port string) {
	w.t.Helper()
	subnet, err := netip.ParsePrefix(docker(w.t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", w.network))
	if err != nil || !subnet.Addr().Is4() {
		w.t.Fatalf("subnet of the Docker network: got %v, %v, want one of IPv4", subnet, err)
	}
	last := subnet.Masked().Addr().As4()
	for bit := subnet.Bits(); bit < 31; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	w.server = netip.AddrFrom4(last).String()
	bridge := "br-" + docker(w.t, "network", "inspect", "--format", "{{.Id}}", w.network)[:12]
	// The default gateway is there, as usual, but leads nowhere.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+bridge+"/forwarding", []byte("0"), 0o644); err != nil {
		w.t.Fatal(err)
	}
	command(w.t, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns.name)
	command(w.t, "ip", "link", "set", port, "master", bridge, "up")
	ns.IP("address", "add", fmt.Sprintf("%s/%d", w.server, subnet.Bits()), "dev", "eth0")
	ns.IP("link", "set", "eth0", "up")
}

// nameServer knows the server's name, and of nothing inside the VPN.
func (w *dockerWorld) nameServer(ns *netns) {
	w.t.Helper()
	needTool(w.t, "dnsmasq", "dnsmasq-base")
	dns := start(w.t, "dnsmasq", ns.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--listen-address="+w.server,
		"--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--log-facility=-", "--log-queries",
		"--host-record="+serverHost+","+w.server))
	dns.WaitLog(`started, version`, 10*time.Second)
}

// in returns the world for use by a subtest, with which its containers end.
func (w *dockerWorld) in(t testing.TB) *dockerWorld {
	inner := *w
	inner.world = w.world.in(t)
	return &inner
}

// run prepares docker run.
func (w *dockerWorld) run(network string, options, args []string) *exec.Cmd {
	argv := []string{"run", "--label", dockerLabel + "=" + run.id, "--network", network}
	if network == w.network {
		argv = append(argv, "--dns", w.server) // what Docker does not know it asks us, and nobody else
	}
	return exec.Command("docker", slices.Concat(argv, options, []string{w.image}, args)...)
}

// asVisitor are options by which a container runs the application in place of the client.
func (w *dockerWorld) asVisitor() []string {
	return []string{"--entrypoint", "/visitor", "--volume", w.visitor + ":/visitor:ro"}
}

// A container runs the client under test. Its log, its end and its exit code are
// those of a process.
type container struct {
	*process
	w    *dockerWorld
	name string
}

// Start runs the client in a container on a network.
func (w *dockerWorld) Start(network string, f flags, options ...string) *container {
	w.t.Helper()
	return w.start("softether-go", network, options, f.args())
}

// Idle is an application without the client that does nothing on the world's network.
func (w *dockerWorld) Idle() *container {
	w.t.Helper()
	return w.start("idle", w.network, w.asVisitor(), nil)
}

func (w *dockerWorld) start(program, network string, options, args []string) *container {
	w.t.Helper()
	c := &container{w: w, name: fmt.Sprintf("%s%s-%d", nsPrefix, run.id, nsNumber.Add(1))}
	w.t.Cleanup(func() { exec.Command("docker", "rm", "--force", c.name).Run() })
	options = append([]string{"--name", c.name}, options...)
	c.process = start(w.t, program, w.run(network, options, args))
	eventually(w.t, dockerTime, "the container runs", func() error {
		out, err := exec.Command("docker", "inspect", "--format", "{{.State.Running}}", c.name).CombinedOutput()
		if err == nil && strings.TrimSpace(string(out)) != "true" {
			err = errors.New("not yet")
		}
		if err != nil && !c.Running() {
			w.t.Fatalf("%s has ended:\n%s", c.name, c.Log())
		}
		return err
	})
	return c
}

// Stop stops it as people do; it has to end well.
func (c *container) Stop() {
	c.t.Helper()
	docker(c.t, "stop", "--time", "30", c.name)
	if code := c.ExitCode(dockerTime); code != exitStopped {
		c.t.Errorf("exit code: got %d, want %d", code, exitStopped)
	}
}

// Kill ends it without a chance to tidy up.
func (c *container) Kill() {
	c.t.Helper()
	docker(c.t, "kill", c.name)
	if code := c.ExitCode(dockerTime); code != 128+int(syscall.SIGKILL) {
		c.t.Errorf("exit code: got %d, not that of a killed one", code)
	}
}

// Again starts it again after its end, as a restart policy does.
func (c *container) Again() {
	c.t.Helper()
	c.process = start(c.t, c.process.name, exec.Command("docker", "start", "--attach", c.name))
}

// inspect returns a field of what Docker knows of it.
func (c *container) inspect(field string) string {
	c.t.Helper()
	return docker(c.t, "inspect", "--format", "{{"+field+"}}", c.name)
}

// Network names the container's network namespace, which keeps it until the test ends.
func (c *container) Network() *netns {
	c.t.Helper()
	n := &netns{t: c.t, name: fmt.Sprintf("%s%s-%dbox", nsPrefix, run.id, nsNumber.Add(1))}
	command(c.t, "ip", "netns", "attach", n.name, c.inspect(".State.Pid"))
	c.t.Cleanup(func() { removeNamespace(n.name) })
	return n
}

// ResolvConf reads the file that Docker mounts over /etc/resolv.conf.
func (c *container) ResolvConf() string {
	c.t.Helper()
	text, err := os.ReadFile(c.inspect(".ResolvConfPath"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// Shared is the container's network, for others to join.
func (c *container) Shared() string { return "container:" + c.name }

// Visit prepares the application in a container of its own on a network, with
// variables in its environment.
func (w *dockerWorld) Visit(network, url string, env ...string) *exec.Cmd {
	options := append(w.asVisitor(), "--rm")
	for _, v := range env {
		options = append(options, "--env", v)
	}
	return w.run(network, options, []string{url})
}

// page runs a visit and says what is wrong with the page, if anything.
func page(cmd *exec.Cmd) error {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	if string(out) != sitePage {
		return fmt.Errorf("got page %q, want %q", out, sitePage)
	}
	return nil
}
