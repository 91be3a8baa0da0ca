package vpn_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// recipe is what a go.mod of somebody else's has, as README and the package's documentation
// say.
const recipe = "require softether-go v0.0.0\nreplace softether-go => ../softether-go\n"

// program is theirs, around what README shows.
const program = `package main

import (
	"context"

	"softether-go/pkg/session"
	"softether-go/pkg/vpn"
)

func main() { _ = run(context.Background(), "secret") }

func run(ctx context.Context, password string) error {
SNIPPET
	if err == nil {
		page.Body.Close()
	}
	return err
}
`

// A module that is not ours builds what README shows by the lines for its go.mod, from what
// is on this machine.
func TestAnotherModuleUsesThePackage(t *testing.T) {
	readme, doc := read(t, "../../README.md"), read(t, "doc.go")
	if !strings.Contains(readme, "```\n"+recipe+"```\n") {
		t.Errorf("README.md does not say\n%s", recipe)
	}
	if !strings.Contains(strings.ReplaceAll(doc, "//\t", ""), recipe) {
		t.Errorf("doc.go does not say\n%s", recipe)
	}
	_, snippet, _ := strings.Cut(readme, "## In a Go program\n\n```go\n")
	snippet, _, found := strings.Cut(snippet, "```")
	if !found {
		t.Fatal("README.md has lost its Go program")
	}
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err == nil {
		err = os.Symlink(root, filepath.Join(dir, "softether-go"))
	}
	// What go mod tidy would add to these lines, by the network.
	_, versions, _ := strings.Cut(read(t, "../../go.mod"), "module softether-go\n")
	versions, _, _ = strings.Cut(versions, "\ntool ")
	theirs := filepath.Join(dir, "theirs")
	if err == nil {
		err = os.Mkdir(theirs, 0o755)
	}
	for name, text := range map[string]string{
		"go.mod":  "module example.com/theirs\n" + versions + recipe,
		"go.sum":  read(t, "../../go.sum"),
		"main.go": strings.Replace(program, "SNIPPET", snippet, 1),
	} {
		if err == nil {
			err = os.WriteFile(filepath.Join(theirs, name), []byte(text), 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", os.DevNull, ".")
	build.Dir, build.Env = theirs, append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
