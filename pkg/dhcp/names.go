package dhcp

import (
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxName is the longest domain name, as text (RFC 1035 §2.3.4).
const maxName = 253

// searchOf returns the search domains of option 119, else those of option 15,
// which some servers fill with several.
func searchOf(m *dhcpv4.DHCPv4) []string {
	if out := domains(searchList(m.Options.Get(dhcpv4.OptionDNSDomainSearchList))); len(out) > 0 {
		return out
	}
	return domains(strings.Fields(strings.TrimRight(m.DomainName(), "\x00")))
}

// searchList returns the names in option 119 (RFC 3397), as far as they can be
// read. It is not left to the codec, which refuses a pointer to a name that ends
// in a pointer itself; dhcpd writes those.
func searchList(b []byte) []string {
	var names []string
	for next := 0; next < len(b) && len(names) < maxSearch; {
		name, end, ok := nameAt(b, next)
		if !ok {
			break
		}
		names = append(names, name)
		next = end
	}
	return names
}

// nameAt reads the compressed name at start (RFC 1035 §4.1.4) and returns where
// the one after it begins. It ends on any input: a pointer must lead to before
// the piece it is in, and no name is longer than maxName.
func nameAt(b []byte, start int) (name string, end int, ok bool) {
	var labels []string
	piece, room := start, maxName
	for at := start; at < len(b) && room > 0; {
		n := int(b[at])
		switch {
		case n == 0:
			return strings.Join(labels, "."), max(end, at+1), true
		case n < 0x40:
			if at+1+n > len(b) {
				return "", 0, false
			}
			labels = append(labels, string(b[at+1:at+1+n]))
			at += 1 + n
			room -= 1 + n
		case n >= 0xc0 && at+1 < len(b):
			target := n&0x3f<<8 | int(b[at+1])
			if target >= piece {
				return "", 0, false
			}
			end = max(end, at+2)
			at, piece = target, target
		default:
			return "", 0, false
		}
	}
	return "", 0, false
}

// domains returns the names that are domain names, each once. The rest is
// dropped: the list may end up in a resolver's configuration.
func domains(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.TrimSuffix(n, ".")
		if len(out) < maxSearch && isDomain(n) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func isDomain(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInLabel) {
			return false
		}
	}
	return len(name) <= maxName
}

func notInLabel(r rune) bool {
	letterOrDigit := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letterOrDigit && r != '-' && r != '_'
}
