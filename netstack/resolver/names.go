package resolver

import (
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxNameLen  = 253 // characters of a full name without the final dot (RFC 1035 section 2.3.4)
	maxLabelLen = 63

	// maxSearch bounds the search list, and so the questions one lookup can cost;
	// resolv.conf(5) has the same number.
	maxSearch = 6
)

// searchDomains returns the usable ones of domains, without dots at the ends.
func searchDomains(domains []string) []string {
	var ok []string
	for _, d := range domains {
		d = strings.Trim(d, ".")
		if validName(d) && len(ok) < maxSearch {
			ok = append(ok, strings.ToLower(d))
		}
	}
	return ok
}

// candidates returns the full names to try for host, in order. A name with a
// final dot is tried as it is; one with a dot inside as it is first and then in
// the search domains; one without a dot in the search domains first.
func candidates(host string, search []string) ([]dnsmessage.Name, error) {
	bare := strings.TrimSuffix(host, ".")
	if !validName(bare) {
		return nil, errBadName
	}
	lower := strings.ToLower(bare)
	if lower == "localhost" || strings.HasSuffix(lower, ".localhost") {
		return nil, errLocalhost // RFC 6761 section 6.3
	}
	var names []string
	hasDot := strings.Contains(bare, ".")
	if hasDot || bare != host {
		names = append(names, bare)
	}
	if bare == host {
		for _, d := range search {
			if full := bare + "." + d; len(full) <= maxNameLen {
				names = append(names, full)
			}
		}
		if !hasDot {
			names = append(names, bare)
		}
	}
	full := make([]dnsmessage.Name, 0, len(names))
	for _, n := range names {
		name, err := dnsmessage.NewName(n + ".")
		if err != nil {
			return nil, errBadName
		}
		full = append(full, name)
	}
	return full, nil
}

// validName reports whether s can be asked for: labels of letters, digits,
// hyphens and underscores. Names in other scripts come in their ASCII form.
func validName(s string) bool {
	if s == "" || len(s) > maxNameLen {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabelLen {
			return false
		}
		for _, c := range []byte(label) {
			if !isNameByte(c) {
				return false
			}
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
