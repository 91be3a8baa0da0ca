//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// deploy has what the README offers to people who deploy the program.
const deploy = "../cmd/softether-go/deploy"

// Proves each example for Compose, with one change to them: tests have a network, a name
// server and images of their own.
func TestComposeExamples(t *testing.T) {
	t.Parallel()
	w := newDockerWorld(t)
	w.startMiddlebox()
	t.Run("proxy", func(t *testing.T) { proveComposedProxy(t, w.in(t).compose("proxy.yaml")) })
	t.Run("tap", func(t *testing.T) { proveComposedTAP(t, w.in(t).compose("tap.yaml")) })
	t.Run("run", func(t *testing.T) { proveComposedRun(t, w.in(t).compose("run.yaml")) })
}

// composedChanges are for the services of an example: all, those on the test's network, and
// the networks.
const composedChanges = `
services:
%s
networks:
  default: {external: true, name: %s}
%s`

// A composed is an example that runs.
type composed struct {
	w    *dockerWorld
	t    testing.TB
	name string // of the project
	argv []string
	env  []string
}

// composeProgram finds Compose, as Docker's plug-in or Debian's program.
var composeProgram = sync.OnceValue(func() []string {
	for _, argv := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.Command(argv[0], append(argv[1:], "version")...).Run() == nil {
			return argv
		}
	}
	return nil
})

// compose starts an example.
func (w *dockerWorld) compose(example string) *composed {
	w.t.Helper()
	program := composeProgram()
	if program == nil {
		w.t.Skip("needs Docker's Compose: apt-get install docker-compose")
	}
	name := strings.TrimSuffix(example, ".yaml")
	dir := filepath.Join(run.dir, "compose-"+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	password, changes := filepath.Join(dir, "softether-pass"), filepath.Join(dir, "changes.yaml")
	for path, text := range map[string]string{password: userPassword + "\n", changes: w.changes(name)} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	project := nsPrefix + run.id + name
	c := &composed{w: w, t: w.t, name: project, argv: append(program, "--project-name", project, "--file", filepath.Join(deploy, "compose", example), "--file", changes),
		env: append(os.Environ(), "SOFTETHER_HOST="+serverHost, "SOFTETHER_PORT="+middleboxPort, "SOFTETHER_HUB="+hubName, "SOFTETHER_USER="+userName,
			"SOFTETHER_PASS_FILE="+password, "APP_IMAGE="+w.buildApp(), "SOFTETHER_IMAGE="+w.image,
			"COMPOSE_DOCKER_CLI_BUILD=0", "DOCKER_BUILDKIT=0")}
	if name == "run" { // in an image that has no certificate authorities
		c.env = append(c.env, "SOFTETHER_PIN=sha256:"+w.srv.Pin())
	}
	w.t.Cleanup(func() { c.command("down", "--volumes", "--timeout", "1").Run() })
	c.Do("up", "--detach")
	return c
}

// changes are an example's, for this test.
func (w *dockerWorld) changes(name string) string {
	const quick = `healthcheck: {interval: 1s, start_period: 1s, retries: 5}, environment: {SOFTETHER_RECONNECT_DELAY: 200ms, SOFTETHER_RECONNECT_MAX_DELAY: 2s}`
	label := fmt.Sprintf("labels: {%s: %q}", dockerLabel, run.id)
	dns := "dns: [" + w.server + "]"
	client := "image: " + w.image
	services, networks := "", ""
	service := func(name string, items ...string) {
		services += fmt.Sprintf("  %s: {%s}\n", name, strings.Join(append(items, label), ", "))
	}
	switch name {
	case "proxy":
		service("vpn", client, dns, quick)
		service("app", dns)
		networks = "  inside: {" + label + "}\n"
	case "tap":
		service("net", client, dns)
		service("vpn", client, quick)
		service("app")
	case "run":
		service("app", "image: "+imageTag("run"), dns, quick, "devices: ["+openTUN(w.t)+"]",
			`command: [sh, -c, "while true; do curl -sS --max-time 5 `+sitePageURL+`; sleep 1; done"]`)
	}
	return fmt.Sprintf(composedChanges, services, w.network, networks)
}

// buildApp builds the image of an application that has curl and a shell, of this
// machine's programs and their libraries.
func (w *dockerWorld) buildApp() string {
	w.t.Helper()
	image, err := buildApp()
	if err != nil {
		w.t.Fatal(err)
	}
	return image
}

var buildApp = sync.OnceValues(func() (string, error) {
	const script = `
set -eu
mkdir -p "$1/bin"
cd "$1"
for program in curl sh sleep ping; do
	path=$(readlink -f "$(command -v $program)")
	cp "$path" bin/$program
	for library in $(ldd "$path" | grep -o '/[^ ]*'); do
		mkdir -p "./$(dirname "$library")"
		cp -L "$library" "./$library"
	done
done
printf 'FROM scratch\nCOPY . /\n' >Dockerfile
printf 'Dockerfile\n' >.dockerignore
docker build --quiet --label "$2" --tag "$3" .
`
	image := imageTag("app")
	out, err := exec.Command("sh", "-c", script, "sh", filepath.Join(run.dir, "app"), dockerLabel+"="+run.id, image).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the application's image: %w\n%s", err, out)
	}
	return image, nil
})

func (c *composed) command(args ...string) *exec.Cmd {
	argv := append(append([]string{}, c.argv...), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = c.env
	return cmd
}

// Do runs one of Compose's commands.
func (c *composed) Do(args ...string) {
	c.t.Helper()
	if out, err := c.command(args...).CombinedOutput(); err != nil {
		logs, _ := c.command("logs", "--no-color").CombinedOutput()
		c.t.Fatalf("compose %s: %v\n%s\n%s", strings.Join(args, " "), err, out, logs)
	}
}

// inspect returns a field of what Docker knows of a service's container.
func (c *composed) inspect(service, field string) string {
	c.t.Helper()
	return docker(c.t, "inspect", "--format", "{{"+field+"}}", c.container(service))
}

// container returns the id of a service's container. Compose itself takes seconds for that.
func (c *composed) container(service string) string {
	c.t.Helper()
	return docker(c.t, "ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project="+c.name, "--filter", "label=com.docker.compose.service="+service)
}

// WaitHealth waits until Docker says so of a service.
func (c *composed) WaitHealth(service, want string) {
	c.t.Helper()
	eventually(c.t, recoverTime, service+" is "+want, func() error {
		if got := c.inspect(service, ".State.Health.Status"); got != want {
			return fmt.Errorf("it is %s: %s", got, c.inspect(service, "range .State.Health.Log}}{{.Output}}{{end"))
		}
		return nil
	})
}

// get fetches the site's page in the application's container, as its environment says.
func (c *composed) get(args ...string) error {
	out, err := exec.Command("docker", append([]string{"exec", c.container("app"), "curl", "-sS", "--max-time", "5", "--fail", sitePageURL}, args...)...).CombinedOutput()
	if err == nil && string(out) != sitePage {
		err = fmt.Errorf("not the page")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// WaitPage waits until the application gets the page.
func (c *composed) WaitPage() {
	c.t.Helper()
	eventually(c.t, recoverTime, "the application gets the page", func() error { return c.get() })
}

// killServer kills the server and waits until Docker knows of a service that it suffers
// from that.
func (c *composed) killServer(service string) (revive func()) {
	c.t.Helper()
	c.w.srv.Kill()
	revive = sync.OnceFunc(func() {
		c.w.srv.Start()
		c.w.lan.Attach()
	})
	c.t.Cleanup(revive) // others want it too
	c.WaitHealth(service, "unhealthy")
	return revive
}

// outliveServer kills the server and starts it again.
func (c *composed) outliveServer(service string) {
	c.t.Helper()
	revive := c.killServer(service)
	if c.get() == nil {
		c.t.Error("the page comes without a server")
	}
	revive()
	c.WaitHealth(service, "healthy")
	c.WaitPage()
}

// Proves that an application goes through the proxies by ALL_PROXY, has no other way out,
// and runs on while the VPN's container is restarted, killed and replaced, and while
// the server is dead.
func proveComposedProxy(t *testing.T, c *composed) {
	c.WaitPage()
	if c.get("--noproxy", "*") == nil {
		t.Error("the page comes without the proxy")
	}
	if got := c.inspect("vpn", ".Config.User") + " " + c.inspect("vpn", ".HostConfig.ReadonlyRootfs"); got != "65534:65534 true" {
		t.Errorf("the VPN runs as %s, want an ordinary user without files", got)
	}
	started := c.inspect("app", ".State.StartedAt")
	docker(t, "restart", c.container("vpn"))
	c.WaitPage()
	docker(t, "kill", c.container("vpn"))
	docker(t, "start", c.container("vpn"))
	c.WaitPage()
	c.Do("up", "--detach", "--force-recreate", "--no-deps", "vpn")
	c.WaitPage()
	c.outliveServer("vpn")
	if got := c.inspect("app", ".State.StartedAt"); got != started {
		t.Errorf("the application was started at %s, before at %s", got, started)
	}
}

// Proves the same of an application that shares a network with the VPN: it pings and
// looks names up there.
func proveComposedTAP(t *testing.T, c *composed) {
	c.WaitPage()
	started := c.inspect("app", ".State.StartedAt")
	if out, err := exec.Command("docker", "exec", c.container("app"), "ping", "-n", "-c", "1", "-W", "5", siteName).CombinedOutput(); err != nil {
		t.Errorf("ping: %v\n%s", err, out)
	}
	docker(t, "restart", c.container("vpn"))
	c.WaitPage()
	docker(t, "kill", c.container("vpn"))
	if c.get() == nil {
		t.Error("the page comes without a VPN")
	}
	docker(t, "start", c.container("vpn"))
	c.WaitPage()
	c.Do("up", "--detach", "--force-recreate", "--no-deps", "vpn")
	c.WaitPage()
	c.outliveServer("vpn")
	if got := c.inspect("app", ".State.StartedAt"); got != started {
		t.Errorf("the application was started at %s, before at %s", got, started)
	}
}

// Proves that a command in a container has a network of its own, without root, through
// a dead server. What is started beside it by Docker is outside, so it is asked by its log.
func proveComposedRun(t *testing.T, c *composed) {
	pages := func() int {
		out, err := exec.Command("docker", "logs", c.container("app")).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(out), strings.TrimSpace(sitePage))
	}
	wait := func(more int) {
		t.Helper()
		eventually(t, recoverTime, "the command gets pages", func() error {
			if n := pages(); n < more {
				out, _ := exec.Command("docker", "logs", "--tail", "5", c.container("app")).CombinedOutput()
				return fmt.Errorf("%d so far: %s", n, out)
			}
			return nil
		})
	}
	wait(1)
	c.WaitHealth("app", "healthy")
	started := c.inspect("app", ".State.StartedAt")
	revive := c.killServer("app")
	before := pages()
	revive()
	c.WaitHealth("app", "healthy")
	wait(before + 1)
	if got := c.inspect("app", ".State.StartedAt"); got != started {
		t.Errorf("the container was started at %s, before at %s", got, started)
	}
}
