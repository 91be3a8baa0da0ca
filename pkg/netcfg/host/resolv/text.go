package resolv

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// maxServers is how many the C library asks: MAXNS in resolv.h.
const maxServers = 3

// Names are the name servers to ask and the domains that complete short names.
type Names struct {
	Servers []netip.Addr
	Search  []string
}

var domain = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// check keeps what a lease says from becoming other lines of a file.
func (n Names) check() error {
	if len(n.Servers) == 0 {
		return fmt.Errorf("no name server")
	}
	for _, s := range n.Servers {
		if !s.IsValid() || s.Zone() != "" || s.IsUnspecified() || s.IsMulticast() {
			return fmt.Errorf("%v is no name server's address", s)
		}
	}
	for _, d := range n.Search {
		if len(d) > 253 || !domain.MatchString(d) {
			return fmt.Errorf("%q is no domain", d)
		}
	}
	return nil
}

const signature = "# Written by softether-go for "

// render makes the text of a resolv.conf, with the options of the one before.
func (n Names) render(tap, before string, missing bool) string {
	var b strings.Builder
	was := "the one before is " + keptName(tap)
	if missing {
		was = noneBefore
	}
	fmt.Fprintf(&b, "%s%s; %s.\n", signature, tap, was)
	for i, s := range n.Servers {
		if i < maxServers {
			fmt.Fprintf(&b, "nameserver %s\n", s)
		}
	}
	if len(n.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(n.Search, " "))
	}
	for line := range strings.Lines(before) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "options" {
			fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
		}
	}
	return b.String()
}

const noneBefore = "there was none before"

// author returns for which TAP a text was written, and whether there was no file
// before it. A text that is not ours has no author.
func author(text string) (tap string, noneBeforeIt bool) {
	first, _, _ := strings.Cut(text, "\n")
	rest, ours := strings.CutPrefix(first, signature)
	if !ours {
		return "", false
	}
	tap, was, _ := strings.Cut(rest, ";")
	return tap, strings.Contains(was, noneBefore)
}

const kept = "resolv.conf.softether-go."

func keptName(tap string) string { return kept + tap }
