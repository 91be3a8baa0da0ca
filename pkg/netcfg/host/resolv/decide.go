package resolv

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// A Way is how name servers are set on a host.
type Way string

// The ways. ReadOnly is none.
const (
	Resolved   Way = "systemd-resolved"
	Resolvconf Way = "resolvconf"
	Replace    Way = "replace"
	Rewrite    Way = "rewrite"
	ReadOnly   Way = "read-only"
)

// Facts are what decides about the way.
type Facts struct {
	Link       string // where etc/resolv.conf links to; empty if it is no link
	Text       string // what it says
	Missing    bool
	MountPoint bool // etc/resolv.conf itself is one: it cannot be replaced
	FileWrites bool // its text can be written
	DirWrites  bool // entries beside it can be made
	Resolved   bool // systemd-resolved answers on D-Bus
	Resolvconf bool // the program is there and is not systemd's
}

// stub matches the address under which systemd-resolved serves.
var stub = regexp.MustCompile(`(?m)^\s*nameserver\s+127\.0\.0\.5[34]\s*$`)

// decide chooses the way and says why.
func decide(f Facts) (Way, string) {
	leadsToResolved := path.Dir(f.Link) == "/run/systemd/resolve" || stub.MatchString(f.Text)
	switch {
	case leadsToResolved && f.Resolved:
		return Resolved, "resolv.conf leads to systemd-resolved, which answers"
	case f.Resolvconf && !f.MountPoint && (strings.Contains(f.Link, "resolvconf") || madeByResolvconf(f.Text)):
		return Resolvconf, "resolv.conf is made by resolvconf"
	case f.MountPoint && f.FileWrites:
		return Rewrite, "resolv.conf is a mount point"
	case f.MountPoint:
		return ReadOnly, "resolv.conf is a read-only mount"
	case f.DirWrites && !f.FileWrites && !f.Missing && f.Link == "":
		return ReadOnly, "resolv.conf may not be changed, though its directory may (chattr -i)"
	case f.DirWrites:
		return Replace, "resolv.conf is an ordinary entry"
	case f.FileWrites && !f.Missing:
		return Rewrite, "resolv.conf can be written, its directory cannot"
	}
	return ReadOnly, "neither resolv.conf nor its directory can be written"
}

// madeByResolvconf looks into the comments at the head, where both programs of
// that name sign.
func madeByResolvconf(text string) bool {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			return false
		}
		if strings.Contains(line, "resolvconf") {
			return true
		}
	}
	return false
}

// isMountPoint looks into a mountinfo table: proc_pid_mountinfo(5), field 5, in
// which spaces and the like are octal.
func isMountPoint(table, path string) bool {
	path = filepath.Clean(path)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > 4 && unescape.Replace(f[4]) == path {
			return true
		}
	}
	return false
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
