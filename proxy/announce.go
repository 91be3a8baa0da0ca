package proxy

import (
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
)

// Announce says what the HTTP proxy tells targets of itself and of its clients.
type Announce uint8

const (
	// AnnounceNothing leaves such headers as the client sent them.
	AnnounceNothing Announce = iota
	// AnnounceHide takes out what the client says: Via, Forwarded, X-Forwarded-…, X-Real-IP.
	AnnounceHide
	// AnnounceVia adds Via both ways (RFC 9110 section 7.6.3), by which loops are found.
	AnnounceVia
	// AnnounceAll adds Via, and Forwarded with the client's address (RFC 7239).
	AnnounceAll
)

// forwardingHeaders are those that say where a request has been.
var forwardingHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// hidden are taken out besides them.
var hidden = []string{"Via", "X-Real-Ip"}

// newPseudonym is what a proxy is called in Via, to be told from others like it.
func newPseudonym() string { return "softether-go-" + strings.ToLower(rand.Text()[:8]) }

func (a Announce) via() bool { return a == AnnounceVia || a == AnnounceAll }

// checkVia finds a request that has been here before.
func (h *HTTP) checkVia(req *http.Request) error {
	if h.Announce.via() && strings.Contains(strings.Join(req.Header["Via"], ","), h.pseudonym) {
		return errors.New("the request has been here before")
	}
	return nil
}

// announce puts into the headers of a request what the target is to know.
func (h *HTTP) announce(in *http.Request, head http.Header) {
	switch h.Announce {
	case AnnounceHide:
		for _, name := range slices.Concat(forwardingHeaders, hidden) {
			head.Del(name)
		}
	case AnnounceAll:
		head.Add("Forwarded", "for="+forwardedNode(in.RemoteAddr)+";proto=http")
	}
	h.addVia(head, in.ProtoMajor, in.ProtoMinor)
}

// addVia notes that a message of that version of HTTP has been here.
func (h *HTTP) addVia(head http.Header, major, minor int) {
	if !h.Announce.via() {
		return
	}
	version := map[[2]int]string{{1, 0}: "1.0", {1, 1}: "1.1", {2, 0}: "2"}[[2]int{major, minor}]
	head.Add("Via", version+" "+h.pseudonym)
}

// forwardedNode is an address as RFC 7239 section 6 has it.
func forwardedNode(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	switch {
	case err != nil:
		return "unknown"
	case strings.Contains(host, ":"):
		return `"[` + host + `]"`
	}
	return host
}
