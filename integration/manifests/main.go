// Command manifests checks the manifests for Kubernetes without a cluster, and shows what
// they come to: the objects of a kustomization, as lines of JSON.
//
// It is a module of its own so that what it needs, Kubernetes' own types and
// kustomize, is no dependency of the program.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kinds are those that the manifests may have.
var kinds = map[string]func() any{
	"apps/v1 Deployment":                 func() any { return new(appsv1.Deployment) },
	"v1 Service":                         func() any { return new(corev1.Service) },
	"v1 ConfigMap":                       func() any { return new(corev1.ConfigMap) },
	"networking.k8s.io/v1 NetworkPolicy": func() any { return new(networkingv1.NetworkPolicy) },
}

// build makes the objects of a kustomization. A field that their types do not have, or one
// given twice, is an error.
func build(dir string) (objects []any, err error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		var kind v1.TypeMeta
		if err := yaml.Unmarshal(text, &kind); err != nil {
			return nil, err
		}
		name := kind.APIVersion + " " + kind.Kind
		make, ok := kinds[name]
		if !ok {
			return nil, fmt.Errorf("%s: %s is of no known kind", dir, name)
		}
		object := make()
		if err := yaml.UnmarshalStrict(text, object); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", dir, name, err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: manifests DIRECTORY")
		os.Exit(2)
	}
	objects, err := build(os.Args[1])
	if err == nil {
		encoder := json.NewEncoder(os.Stdout)
		for _, o := range objects {
			if err = encoder.Encode(o); err != nil {
				break
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}
