package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

const deploy = "../../cmd/softether-go/deploy/kubernetes"

// examples are the kustomizations, with the level of Pod Security that each is fit for.
var examples = map[string]api.Level{"proxy": api.LevelRestricted, "sidecar": api.LevelRestricted, "tap": api.LevelPrivileged}

func TestEveryExampleIsListed(t *testing.T) {
	entries, err := os.ReadDir(deploy)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := slices.Sorted(maps.Keys(examples)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Each file by itself is one for kubectl apply -f, with fields that the API knows.
func TestFilesAreObjectsOfTheAPI(t *testing.T) {
	files, err := filepath.Glob(deploy + "/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue // kustomize itself is strict
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var kind v1.TypeMeta
		if err := yaml.Unmarshal(text, &kind); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if filepath.Base(file) == "tap.yaml" {
			text = []byte(strings.ReplaceAll(string(text), ", $patch: delete", "")) // kustomize's own
		}
		make, ok := kinds[kind.APIVersion+" "+kind.Kind]
		if !ok {
			t.Errorf("%s: unknown kind %+v", file, kind)
		} else if err := yaml.UnmarshalStrict(text, make()); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestAFieldThatTheAPIDoesNotHaveIsSeen(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kustomization.yaml": "resources: [a.yaml]\n",
		"a.yaml":             "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: [1]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if objects, err := build(dir); err == nil || !strings.Contains(err.Error(), `unknown field "port"`) {
		t.Errorf("got %v, %v", objects, err)
	}
}

func find[T any](t *testing.T, objects []any) *T {
	t.Helper()
	for _, o := range objects {
		if found, ok := o.(*T); ok {
			return found
		}
	}
	t.Fatalf("there is no %T", *new(T))
	return nil
}

func TestPodsAreAsSafeAsTheySay(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, level := range examples {
		objects, err := build(filepath.Join(deploy, name))
		if err != nil {
			t.Error(err)
			continue
		}
		pod := find[appsv1.Deployment](t, objects).Spec.Template
		refused := func(level api.Level) (why []string) {
			for _, r := range evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec) {
				if !r.Allowed {
					why = append(why, r.ForbiddenReason+": "+r.ForbiddenDetail)
				}
			}
			return why
		}
		if why := refused(level); len(why) > 0 {
			t.Errorf("%s is not %s: %v", name, level, why)
		}
		if level == api.LevelPrivileged && len(refused(api.LevelBaseline)) == 0 {
			t.Errorf("%s asks for more than it needs to be", name)
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
				t.Errorf("%s: %s may write to its root", name, c.Name)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s: %s has no resources", name, c.Name)
			}
		}
	}
}

// What names something else names something that is there.
func TestObjectsFitTogether(t *testing.T) {
	for name := range examples {
		objects, err := build(filepath.Join(deploy, name))
		if err != nil {
			t.Error(err)
			continue
		}
		d := find[appsv1.Deployment](t, objects)
		pod := d.Spec.Template
		matches := func(what string, s *v1.LabelSelector) {
			t.Helper()
			selector, err := v1.LabelSelectorAsSelector(s)
			if err != nil || selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
				t.Errorf("%s: %s selects %v, %v, not the pod's %v", name, what, selector, err, pod.Labels)
			}
		}
		matches("the deployment", d.Spec.Selector)
		matches("the network policy", &find[networkingv1.NetworkPolicy](t, objects).Spec.PodSelector)
		ports := map[string]bool{}
		var vpn *corev1.Container
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, p := range c.Ports {
				ports[p.Name] = true
			}
			if c.Name == "vpn" {
				vpn = &c
			}
		}
		if name == "proxy" {
			service := find[corev1.Service](t, objects)
			matches("the service", &v1.LabelSelector{MatchLabels: service.Spec.Selector})
			for _, p := range service.Spec.Ports {
				if !ports[p.TargetPort.StrVal] {
					t.Errorf("the service has a port %s, the pod %v", p.TargetPort.StrVal, ports)
				}
			}
			if vpn.Lifecycle == nil || vpn.Lifecycle.PreStop == nil {
				t.Error("the proxies do not drain")
			}
		} else if vpn.RestartPolicy == nil || *vpn.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			t.Errorf("%s: the VPN is no sidecar", name)
		}
		for what, p := range map[string]*corev1.Probe{"startup": vpn.StartupProbe, "liveness": vpn.LivenessProbe, "readiness": vpn.ReadinessProbe} {
			if p == nil || p.HTTPGet == nil || !ports[p.HTTPGet.Port.StrVal] {
				t.Errorf("%s: the %s probe asks nobody: %v", name, what, p)
			}
		}
		if got := vpn.EnvFrom[0].ConfigMapRef.Name; got != find[corev1.ConfigMap](t, objects).Name {
			t.Errorf("%s: the settings are from %s, which is not there", name, got)
		}
	}
}
