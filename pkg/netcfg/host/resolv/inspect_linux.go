package resolv

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// inspect gathers the facts.
func (m *Manager) inspect(ctx context.Context) Facts {
	p := m.cfg.place()
	f := Facts{DirWrites: writes(p.dir), FileWrites: writes(p.conf())}
	f.Text, f.Missing, _ = p.read()
	if target, err := os.Readlink(p.conf()); err == nil {
		if !filepath.IsAbs(target) {
			target = filepath.Join("/etc", target)
		}
		f.Link = filepath.Clean(target)
	}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		f.MountPoint = isMountPoint(string(table), p.conf())
	}
	f.Resolved = newResolved(m.cfg.Root).answers(ctx)
	path, systemds := m.cfg.program()
	f.Resolvconf = path != "" && !systemds
	return f
}

// writes asks the kernel, who also knows of read-only mounts.
func writes(path string) bool { return unix.Access(path, unix.W_OK) == nil }
