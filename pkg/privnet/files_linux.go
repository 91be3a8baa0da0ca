package privnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
)

const (
	resolvConf   = "/etc/resolv.conf"
	nsswitchConf = "/etc/nsswitch.conf"

	// maxServers is how many name servers the C library looks at (resolv.conf(5)).
	maxServers = 3
)

// Outside these resolve names by the host's network: they must not be found.
var (
	hiddenDirs    = []string{"/run/systemd/resolve", "/run/nscd", "/var/run/nscd", "/run/avahi-daemon"}
	hiddenSockets = []string{"/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"}
)

// stagingDirs are directories of which one exists and is not looked at while the files
// are made: a file has to be mounted somewhere to be mounted elsewhere. The last are there
// in containers that have nothing else.
var stagingDirs = []string{"/tmp", "/mnt", "/run", "/var", "/srv", "/dev/shm", "/sys"}

// files are those that the command sees in place of the host's.
type files struct {
	resolv *os.File
	covers []*cover
}

// makeFiles changes the mount namespace, which has to be our own. The host's later
// mounts show in it, ours do not show on the host.
func makeFiles() (*files, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("part the mounts from the host's: %w", err)
	}
	dir, err := stage()
	if err != nil {
		return nil, err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) // what is mounted elsewhere stays
	f := &files{}
	if err := f.fill(dir); err != nil {
		return nil, err
	}
	return f, nil
}

// stage mounts a file system of our own.
func stage() (dir string, err error) {
	for _, dir = range stagingDirs {
		if err = unix.Mount("softether-go", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=0755"); err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			break
		}
	}
	return "", fmt.Errorf("mount a file system for private files on %s: %w", dir, err)
}

// fill puts everything in its place, with the sources in dir.
func (f *files) fill(dir string) error {
	empty, none := filepath.Join(dir, "empty"), filepath.Join(dir, "none")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(none, nil, 0o444); err != nil {
		return err
	}
	for _, d := range hiddenDirs {
		// A file system for each: resolv.conf may be a link into one of them.
		if err := hide(d, func() error { return unix.Mount("softether-go", d, "tmpfs", 0, "size=64k,mode=0755") }); err != nil {
			return err
		}
	}
	for _, s := range hiddenSockets {
		if err := hide(s, func() error { return unix.Mount(none, s, "", unix.MS_BIND, "") }); err != nil {
			return err
		}
	}
	return errors.Join(f.fillResolv(dir), f.fillNSSwitch(dir))
}

// hide mounts over a path if it exists.
func hide(path string, mount func() error) error {
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	if err := mount(); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

func (f *files) fillResolv(dir string) (err error) {
	source := filepath.Join(dir, "resolv.conf")
	if f.resolv, err = os.OpenFile(source, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	return f.cover(source, resolvConf)
}

// cover puts a file in the place of another.
func (f *files) cover(source, target string) error {
	if err := mountOver(source, target); err != nil {
		return err
	}
	c := &cover{target: target, spare: -1}
	if err := c.prepare(); err != nil {
		return nil // as before Linux 5.2: it holds until somebody replaces the host's file
	}
	f.covers = append(f.covers, c)
	return nil
}

// mountOver mounts a file over another, following links. A link to nowhere gets
// somewhere if that is in a directory of ours.
func mountOver(source, target string) error {
	err := unix.Mount(source, target, "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		if f, createErr := os.OpenFile(target, os.O_WRONLY|os.O_CREATE, 0o644); createErr == nil {
			f.Close()
			err = unix.Mount(source, target, "", unix.MS_BIND, "")
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s does not exist, so it cannot be replaced by a private one: make it, empty is fine", target)
	}
	if err != nil {
		return fmt.Errorf("mount a private %s: %w", target, err)
	}
	return nil
}

// fillNSSwitch replaces the file if the C library reads it at all.
func (f *files) fillNSSwitch(dir string) error {
	text, err := os.ReadFile(nsswitchConf)
	if err != nil {
		return nil // then it asks files and DNS
	}
	source := filepath.Join(dir, "nsswitch.conf")
	if err := os.WriteFile(source, []byte(plainHosts(string(text))), 0o644); err != nil {
		return err
	}
	return f.cover(source, nsswitchConf)
}

// plainHosts makes the line about hosts ask files and DNS alone (nsswitch.conf(5)).
func plainHosts(text string) string {
	const plain = "hosts: files dns"
	lines, found := strings.Split(strings.TrimRight(text, "\n"), "\n"), false
	for i, line := range lines {
		if db, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(db) == "hosts" {
			lines[i], found = plain, true
		}
	}
	if !found {
		lines = append(lines, plain)
	}
	return strings.Join(lines, "\n") + "\n"
}

// setDNS writes the name servers. Whoever reads at the same time may see a part.
func (f *files) setDNS(d netcfg.DNS) error {
	text := []byte(resolvText(d))
	_, err := f.resolv.WriteAt(text, 0)
	if err == nil {
		err = f.resolv.Truncate(int64(len(text)))
	}
	if err != nil {
		return fmt.Errorf("write the private %s: %w", resolvConf, err)
	}
	return nil
}

// scoped is a server's address as programs inside take it: one of the link says of which.
func scoped(server netip.Addr) netip.Addr {
	if server.Is6() && server.IsLinkLocalUnicast() {
		return server.WithZone(interfaceName)
	}
	return server
}

// resolvText is d in the form of resolv.conf(5). Without servers the C library asks
// this machine, that is, nobody.
func resolvText(d netcfg.DNS) string {
	var b strings.Builder
	b.WriteString("# of the VPN, for this command alone\n")
	for i, s := range d.Servers {
		if i < maxServers {
			fmt.Fprintf(&b, "nameserver %v\n", scoped(s))
		}
	}
	if len(d.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Search, " "))
	}
	return b.String()
}
