//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A pod is as much of a pod's specification as its containers can be run by without a
// cluster: by Docker, sharing a network, as the same users with the same powers.
type pod struct {
	InitContainers, Containers []podContainer
	SecurityContext            struct{ RunAsUser, FSGroup *int64 }
}

type podContainer struct {
	Name            string
	Command, Args   []string
	Env             []struct{ Name, Value string }
	SecurityContext struct {
		RunAsUser                                        *int64
		AllowPrivilegeEscalation, ReadOnlyRootFilesystem *bool
		Capabilities                                     struct{ Add, Drop []string }
	}
	VolumeMounts                                []struct{ Name, MountPath string }
	Ports                                       []struct{ ContainerPort int }
	StartupProbe, LivenessProbe, ReadinessProbe podProbe
	Lifecycle                                   struct {
		PreStop struct{ Exec struct{ Command []string } }
	}
}

type podProbe struct{ HTTPGet struct{ Path string } }

// manifestsProgram builds what turns manifests into objects, which is a module of its own.
var manifestsProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(run.dir, "manifests")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = "manifests"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build manifests: %w\n%s", err, out)
	}
	return path, nil
})

// Proves that the manifests are what the API takes, and as safe as they say.
func TestKubernetesManifests(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "test", "-count=1", ".")
	cmd.Dir = "manifests"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// readPod returns the pod of a kustomization's deployment.
func readPod(t testing.TB, example string) pod {
	t.Helper()
	program, err := manifestsProgram()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, filepath.Join(deploy, "kubernetes", example)).Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var o struct {
			Kind string
			Spec struct{ Template struct{ Spec pod } }
		}
		if err := d.Decode(&o); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "Deployment" {
			return o.Spec.Template.Spec
		}
	}
}

// A runningPod is one whose containers Docker runs.
type runningPod struct {
	pod
	w      *dockerWorld
	holder *container // of the network
	secret string     // its volume
}

func (w *dockerWorld) newPod(example string) *runningPod {
	w.t.Helper()
	p := &runningPod{pod: readPod(w.t, example), w: w, secret: filepath.Join(run.dir, "secret-"+example)}
	p.putSecret("1", userPassword)
	p.holder = w.start("pod", w.network, nil, []string{"pause"})
	return p
}

// putSecret fills the volume as the kubelet does: in a directory of its own, to which a link
// is changed at once.
func (p *runningPod) putSecret(version, password string) {
	p.w.t.Helper()
	const script = `
set -eu
umask 077
mkdir -p "$1/..$2"
printf %s "$3" >"$1/..$2/password"
printf %s secret >"$1/..$2/proxy-password"
chown -R 0:"$4" "$1"
chmod 0440 "$1/..$2"/*
chmod 0755 "$1" "$1/..$2"
ln -sfn "..$2" "$1/..new" && mv -T "$1/..new" "$1/..data"
for name in password proxy-password; do ln -sf "..data/$name" "$1/$name"; done
`
	command(p.w.t, "sh", "-c", script, "sh", p.secret, version, password, strconv.FormatInt(*p.SecurityContext.FSGroup, 10))
}

// start runs one of the containers. The VPN's settings are those of this world.
func (p *runningPod) start(c podContainer, image string) *container {
	p.w.t.Helper()
	w := *p.w
	w.image = image
	user := p.SecurityContext.RunAsUser
	if c.SecurityContext.RunAsUser != nil {
		user = c.SecurityContext.RunAsUser
	}
	options := []string{"--user", fmt.Sprintf("%d:%d", *user, *user), "--group-add", strconv.FormatInt(*p.SecurityContext.FSGroup, 10)}
	s := c.SecurityContext
	if *s.ReadOnlyRootFilesystem {
		options = append(options, "--read-only")
	}
	if !*s.AllowPrivilegeEscalation {
		options = append(options, "--security-opt", "no-new-privileges")
	}
	for _, drop := range s.Capabilities.Drop {
		options = append(options, "--cap-drop", drop)
	}
	for _, add := range s.Capabilities.Add {
		options = append(options, "--cap-add", add)
	}
	for _, e := range c.Env {
		options = append(options, "--env", e.Name+"="+e.Value)
	}
	for _, m := range c.VolumeMounts {
		if m.Name == "tun" {
			options = append(options, "--device", m.MountPath)
		} else {
			options = append(options, "--volume", p.secret+":"+m.MountPath+":ro")
		}
	}
	for name, value := range map[string]string{"HOST": serverHost, "PORT": middleboxPort, "HUB": hubName, "USER": userName,
		"RECONNECT_DELAY": "200ms", "RECONNECT_MAX_DELAY": "1s"} {
		options = append(options, "--env", "SOFTETHER_"+name+"="+value)
	}
	args := c.Args
	if len(c.Command) > 0 {
		options, args = append(options, "--entrypoint", c.Command[0]), slices.Concat(c.Command[1:], c.Args)
	}
	return w.start(c.Name, p.holder.Shared(), options, args)
}

// probe asks as the kubelet does: from the node, at the pod's address.
func (p *runningPod) probe(probe podProbe) (code int, said string) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	address := p.holder.inspect("range .NetworkSettings.Networks}}{{.IPAddress}}{{end")
	answer, err := c.Get("http://" + address + ":9090" + probe.HTTPGet.Path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text)
}

func (p *runningPod) waitProbe(t testing.TB, probe podProbe, want int) {
	t.Helper()
	eventually(t, recoverTime, fmt.Sprintf("%s answers %d", probe.HTTPGet.Path, want), func() error {
		if code, said := p.probe(probe); code != want {
			return fmt.Errorf("got %d: %s", code, said)
		}
		return nil
	})
}

// Proves that the pods of the manifests do their work, as far as Docker can be a node.
func TestPods(t *testing.T) {
	t.Parallel()
	w := newDockerWorld(t)
	m := w.startMiddlebox()
	for _, example := range []string{"proxy", "sidecar", "tap"} {
		t.Run(example, func(t *testing.T) { provePod(t, w.in(t), m, example) })
	}
}

// Proves that the containers of a pod do with what they have: the startup probe holds the
// application back until there is a tunnel, a password is replaced, probes tell of a lost
// server without calling for a restart, and the end is announced.
func provePod(t *testing.T, w *dockerWorld, m *middlebox, example string) {
	p := w.newPod(example)
	spec := slices.Concat(p.InitContainers, p.Containers)[0] // the VPN's
	m.Refuse(true)
	vpn := p.start(spec, w.image)
	p.waitProbe(t, spec.LivenessProbe, http.StatusOK)
	p.waitProbe(t, spec.ReadinessProbe, http.StatusServiceUnavailable)
	if started := spec.StartupProbe.HTTPGet.Path == spec.LivenessProbe.HTTPGet.Path; !started {
		p.waitProbe(t, spec.StartupProbe, http.StatusServiceUnavailable)
	}
	m.Refuse(false)
	p.waitProbe(t, spec.StartupProbe, http.StatusOK)
	p.waitProbe(t, spec.ReadinessProbe, http.StatusOK)
	get := w.podVisitor(t, p)
	if err := get(); err != nil {
		t.Error(err)
	}

	const another = "an0ther"
	w.srv.Hub(`UserPasswordSet ` + userName + ` /PASSWORD:"` + another + `"`)
	defer w.srv.Hub(`UserPasswordSet ` + userName + ` /PASSWORD:"` + userPassword + `"`)
	p.putSecret("2", another)
	seen := len(vpn.Log())
	for _, s := range w.srv.Sessions(userName) {
		w.srv.Disconnect(s)
	}
	vpn.WaitLogAfter(seen, "tunnel up", recoverTime)

	m.Refuse(true)
	m.Cut()
	p.waitProbe(t, spec.ReadinessProbe, http.StatusServiceUnavailable)
	p.waitProbe(t, spec.LivenessProbe, http.StatusOK)
	m.Refuse(false)
	p.waitProbe(t, spec.ReadinessProbe, http.StatusOK)
	eventually(t, upTime, "the page comes again", get)

	if argv := spec.Lifecycle.PreStop.Exec.Command; len(argv) > 0 {
		docker(t, append([]string{"exec", vpn.name}, argv...)...)
		p.waitProbe(t, spec.ReadinessProbe, http.StatusServiceUnavailable)
	}
	vpn.Stop()
}

// podVisitor returns what fetches the site's page for a pod: its application, or for
// proxies that are a service, one elsewhere.
func (w *dockerWorld) podVisitor(t *testing.T, p *runningPod) func() error {
	t.Helper()
	if len(p.InitContainers) == 0 {
		address := p.holder.inspect("range .NetworkSettings.Networks}}{{.IPAddress}}{{end")
		return func() error {
			return page(w.Visit(w.network, sitePageURL, "HTTP_PROXY=socks5h://app:secret@"+address+":1080"))
		}
	}
	app := p.start(p.Containers[0], w.buildApp())
	url := sitePageURL
	if len(p.Containers[0].Env) == 0 { // directly; the pod's name servers are the cluster's affair
		url = "http://" + routedHost + "/"
	}
	return func() error {
		return page(exec.Command("docker", "exec", app.name, "curl", "-sS", "--fail", "--max-time", "5", url))
	}
}
