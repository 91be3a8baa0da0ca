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

// render makes the text of a resolv.conf, with the options of the one before, which
// was put where the first line says.
func (n Names) render(tap, was, before string) string {
	var b strings.Builder
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

// Where the file before ours is.
const (
	noneBefore   = "there was none before"
	beforeBeside = "the one before is "
	beforeBelow  = "the one before follows"
)

// author returns for which TAP a text was written, and whether there was no file
// before it. A text that is not ours has no author.
func author(text string) (tap string, noneBeforeIt bool) {
	rest, ours := strings.CutPrefix(firstLine(text), signature)
	if !ours {
		return "", false
	}
	tap, was, _ := strings.Cut(rest, ";")
	return tap, strings.Contains(was, noneBefore)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

const kept = "resolv.conf.softether-go."

func keptName(tap string) string { return kept + tap }

// below marks the lines of the text before ours in one that keeps it.
const below = "#|"

// enclose keeps a text at the end of one of ours.
func enclose(text, before string) string {
	return text + below + strings.ReplaceAll(before, "\n", "\n"+below) + "\n"
}

// enclosed returns the text of ours alone, and what it keeps if it keeps anything.
func enclosed(text string) (ours, before string, ok bool) {
	if tap, _ := author(text); tap == "" || !strings.Contains(firstLine(text), beforeBelow) {
		return text, "", false
	}
	ours, before, ok = strings.Cut(text, "\n"+below)
	before = strings.TrimSuffix(before, "\n")
	return ours + "\n", strings.ReplaceAll(before, "\n"+below, "\n"), ok
}

// peel takes what a TAP's instance wrote from around the text before it, also if other
// instances have enclosed that since.
func peel(text, tap string) (rest string, ok bool) {
	ours, before, ok := enclosed(text)
	if holder, _ := author(text); !ok || holder == tap {
		return before, ok
	}
	if before, ok = peel(before, tap); ok {
		return enclose(ours, before), true
	}
	return "", false
}

// authors returns the TAPs for which a text and those that it keeps were written.
func authors(text string) (taps []string) {
	for more := true; more; _, text, more = enclosed(text) {
		if tap, _ := author(text); tap != "" {
			taps = append(taps, tap)
		}
	}
	return taps
}
