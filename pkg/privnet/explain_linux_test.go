package privnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEachRefusalHasItsCauseAndRemedy(t *testing.T) {
	free := facts{-1, -1, 15000, 15000, 15000, false, false, false}
	with := func(edit func(*facts)) facts {
		f := free
		edit(&f)
		return f
	}
	for _, row := range []struct {
		name  string
		facts facts
		errno syscall.Errno
		want  string
	}{
		{"Debian's setting", with(func(f *facts) { f.usernsClone = 0 }), unix.EPERM, "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"no user namespaces", with(func(f *facts) { f.maxUser = 0 }), unix.ENOSPC, "sysctl -w user.max_user_namespaces="},
		{"no network namespaces", with(func(f *facts) { f.maxNet = 0 }), unix.ENOSPC, "sysctl -w user.max_net_namespaces="},
		{"no mount namespaces", with(func(f *facts) { f.maxMount = 0 }), unix.ENOSPC, "sysctl -w user.max_mnt_namespaces="},
		{"too many", free, unix.ENOSPC, "as many namespaces as"},
		{"Ubuntu's AppArmor", with(func(f *facts) { f.appArmor = 1 }), unix.EACCES, "-print-apparmor-profile"},
		{"Docker", with(func(f *facts) { f.container, f.seccomp = true, true }), unix.EPERM, "seccomp=unconfined"},
		{"Docker on Ubuntu", with(func(f *facts) { f.container, f.seccomp, f.appArmor = true, true, 1 }), unix.EPERM, "seccomp=unconfined"},
		{"root that may not map itself", with(func(f *facts) { f.weakRoot = true }), unix.EPERM, "--cap-add SETFCAP"},
		{"a sandbox", with(func(f *facts) { f.seccomp = true }), unix.EPERM, "RestrictNamespaces"},
		{"a chroot", free, unix.EPERM, "chroot"},
		{"a small kernel", free, unix.EINVAL, "CONFIG_USER_NS"},
		{"too deep", free, unix.EUSERS, "nested"},
		{"something else", free, unix.EIO, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := fmt.Errorf("fork/exec: %w", row.errno)
			got := row.facts.why(err)
			if !strings.Contains(got, row.want) || (got == "") != (row.want == "") || strings.Contains(got, "\n") {
				t.Errorf("got %q, want a line with %q", got, row.want)
			}
		})
	}
}

func TestFactsAreReadFromTheHost(t *testing.T) {
	root := t.TempDir()
	if got, want := readFacts(root), (facts{-1, -1, -1, -1, -1, false, false, weakRoot()}); got != want {
		t.Errorf("nothing there: got %+v", got)
	}
	for name, text := range map[string]string{
		"proc/sys/kernel/unprivileged_userns_clone":             "0\n",
		"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
		"proc/sys/user/max_user_namespaces":                     "2\n",
		"proc/sys/user/max_net_namespaces":                      "3\n",
		"proc/sys/user/max_mnt_namespaces":                      "4\n",
		"proc/self/status":                                      "NoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n",
		".dockerenv":                                            "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := readFacts(root), (facts{0, 1, 2, 3, 4, true, true, weakRoot()}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestExplainedErrorsKeepTheirCause(t *testing.T) {
	err := explain(fmt.Errorf("start: %w", unix.ENOSPC))
	if !errors.Is(err, ErrForbidden) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if again := explain(err); again != err {
		t.Errorf("a second time: got %v", again)
	}
	if other := errors.New("disk full"); explain(other) != other || explain(nil) != nil {
		t.Error("explained what needs none")
	}
}
