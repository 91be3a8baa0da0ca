package privnet

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A cover is a file of ours that is mounted over one of the host's. When the host
// replaces its file by another of that name, as everybody does who changes resolv.conf,
// the kernel takes our mount away with the old one (Linux 3.18 and later). So there is
// always a second mount of the same file, not yet in any place.
type cover struct {
	target string
	ours   unix.Stat_t // the file that should be seen at the target
	spare  int         // descriptor of the second mount
}

// prepare notes what is mounted, and makes the second mount.
func (c *cover) prepare() error {
	if err := unix.Stat(c.target, &c.ours); err != nil {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, c.target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	c.spare = fd
	return nil
}

// restore mounts the file again if another is seen in its place.
func (c *cover) restore() {
	var now unix.Stat_t
	if c.spare < 0 || unix.Stat(c.target, &now) != nil || now.Dev == c.ours.Dev && now.Ino == c.ours.Ino {
		return
	}
	if unix.MoveMount(c.spare, "", unix.AT_FDCWD, c.target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS) != nil {
		return // between two changes of the host; there will be another event
	}
	unix.Close(c.spare)
	c.spare = -1
	_ = c.prepare() // which worked before
}

// watch keeps the covers in place until the returned function is called.
func (f *files) watch() (stop func()) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return func() {} // too many watchers on this host; the covers hold until a change
	}
	events := os.NewFile(uintptr(fd), "inotify")
	f.watchDirs(fd)
	for _, c := range f.covers {
		c.restore() // what happened before there was a watch
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			if _, err := events.Read(b); err != nil {
				return
			}
			for _, c := range f.covers {
				c.restore()
			}
			f.watchDirs(fd)
		}
	}()
	return func() {
		events.Close()
		<-done
	}
}

// watchDirs watches the directories in which the covered files are, and those that
// links lead to. A directory that is watched already stays so.
func (f *files) watchDirs(fd int) {
	for _, c := range f.covers {
		dirs := []string{filepath.Dir(c.target)}
		if real, err := filepath.EvalSymlinks(c.target); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
		for _, dir := range dirs {
			_, _ = unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_ONLYDIR)
		}
	}
}
