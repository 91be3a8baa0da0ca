package config

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxName is the longest user or hub name; Cedar/Cedar.h, MAX_USERNAME_LEN and
// MAX_HUBNAME_LEN.
const maxName = 255

// quote shows what the user wrote, on one line and not without end.
func quote(s string) string {
	const limit = 60
	if len(s) > limit {
		return strconv.Quote(s[:limit]) + "…"
	}
	return strconv.Quote(s)
}

// parseBool does not repeat s: after -plain-password= it may be a password.
func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("is a switch: give it alone, or =true or =false")
	}
	return b, nil
}

func parsePath(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", errors.New("holds a NUL byte; give a file's path")
	}
	return s, nil
}

func parseName(s string) (string, error) {
	switch {
	case len(s) > maxName:
		return "", fmt.Errorf("%s is longer than the %d bytes a server takes", quote(s), maxName)
	case !utf8.ValidString(s):
		return "", fmt.Errorf("%s is not UTF-8", quote(s))
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", fmt.Errorf("%s holds a control character", quote(s))
	}
	return s, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not a port: give 1 to 65535", quote(s))
	}
	return uint16(n), nil
}

// A Pin is the SHA-256 of a certificate or of its public key (SPKI).
type Pin [32]byte

// String returns the pin as -pin takes it.
func (p Pin) String() string { return "sha256:" + hex.EncodeToString(p[:]) }

// parsePin takes what openssl (hex with colons), ssh (base64 without padding)
// and curl (base64 with it) print. Hex and base64 of 32 bytes differ in length.
func parsePin(s string) (Pin, error) {
	const want = `give "sha256:" and 64 hex digits, or the same 32 bytes in base64`
	kind, text, _ := strings.Cut(s, ":")
	if !strings.EqualFold(kind, "sha256") {
		return Pin{}, fmt.Errorf("%s does not begin with sha256: %s", quote(s), want)
	}
	raw, err := decodeHash(text)
	if err != nil || len(raw) != len(Pin{}) {
		return Pin{}, fmt.Errorf("%s is not a SHA-256: %s", quote(s), want)
	}
	return Pin(raw), nil
}

func decodeHash(s string) ([]byte, error) {
	if strings.Contains(s, ":") {
		pairs := strings.Split(s, ":")
		for _, pair := range pairs {
			if len(pair) != 2 {
				return nil, hex.ErrLength
			}
		}
		s = strings.Join(pairs, "")
	}
	if len(s) == hex.EncodedLen(len(Pin{})) {
		return hex.DecodeString(s)
	}
	if strings.ContainsAny(s, "\r\n") { // which base64 would skip
		return nil, base64.CorruptInputError(0)
	}
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimSuffix(s, "="))
	return base64.RawStdEncoding.Strict().DecodeString(s)
}

// parsePrefix6 takes an IPv6 address that a machine in the tunnel can have, with its
// prefix length.
func parsePrefix6(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Is6() {
		return netip.Prefix{}, fmt.Errorf("%s lacks its prefix length: give %s/64, or what your network has", quote(s), addr)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !usableHost6(p.Addr()) || p.Addr().IsLinkLocalUnicast() || p.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%s is not an IPv6 address with its prefix length: give one like 2001:db8::5/64", quote(s))
	}
	return p, nil
}

// parseHostAddr6 takes an IPv6 address that a router in the tunnel can have, also one of
// the link alone.
func parseHostAddr6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !usableHost6(a) {
		return netip.Addr{}, fmt.Errorf("%s is not an IPv6 address of a host: give one like fe80::1, without a zone", quote(s))
	}
	return a, nil
}

func usableHost6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

// parseServer takes the address of a name server of either family.
func parseServer(s string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(s); err == nil && usableHost6(a) {
		return a, nil
	}
	return parseHostAddr(s)
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.Prefix{}, fmt.Errorf("%s lacks its prefix length: give %s/24, or what your network has", quote(s), addr)
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is not an address with its prefix length: give one like 10.0.0.5/24", quote(s))
	case !p.Addr().Is4():
		return netip.Prefix{}, fmt.Errorf("%s is IPv6, for which there is -address6: give an IPv4 address", quote(s))
	case p.Bits() == 0 || !usableHost(p.Addr(), p):
		return netip.Prefix{}, fmt.Errorf("%s is not a host's address: give one like 10.0.0.5/24", quote(s))
	}
	return p, nil
}

// parseHostAddr takes an IPv4 address that a machine in the tunnel can have.
func parseHostAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s is not an IP address", quote(s))
	case !a.Is4():
		return netip.Addr{}, fmt.Errorf("%s is not an IPv4 address of a host: give one like 10.0.0.1", quote(s))
	case a.IsLoopback():
		return netip.Addr{}, fmt.Errorf("%s is this machine's own: give an address inside the VPN", quote(s))
	case !usableHost(a, netip.PrefixFrom(a, 32)):
		return netip.Addr{}, fmt.Errorf("%s is not a host's address", quote(s))
	}
	return a, nil
}

// usableHost reports whether a, inside p, can be the address of one machine:
// not of many, not of this very machine, and not the network's own or broadcast
// address, which prefixes of 31 and 32 bits do not have (RFC 3021).
func usableHost(a netip.Addr, p netip.Prefix) bool {
	first := a.As4()[0]
	if first == 0 || first == 127 || first >= 224 { // this network, loopback, multicast and reserved
		return false
	}
	if p.Bits() >= 31 {
		return true
	}
	return a != p.Masked().Addr() && a != broadcast(p)
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := range b {
		ones := min(max(p.Bits()-8*i, 0), 8)
		b[i] |= 0xff >> ones
	}
	return netip.AddrFrom4(b)
}

// parseDomain takes a DNS name; the root's dot at its end is dropped.
func parseDomain(s string) (string, error) {
	name := strings.TrimSuffix(s, ".")
	if err := checkDomain(name); err != nil {
		return "", fmt.Errorf("%s is not a domain name: %w", quote(s), err)
	}
	return name, nil
}

// checkDomain follows RFC 1035 §2.3.4 on lengths and lets the underscore pass,
// which real networks use.
func checkDomain(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("it has 1 to 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "" || len(label) > 63:
			return errors.New("there are 1 to 63 characters between dots")
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("no part begins or ends with a dash")
		case strings.ContainsFunc(label, notInDomain):
			return errors.New("letters a to z, digits, dash, underscore and dots only (write others in their xn-- form)")
		}
	}
	return nil
}

func notInDomain(r rune) bool {
	letter := 'a' <= r|0x20 && r|0x20 <= 'z' // the bit that tells upper from lower case
	return !letter && (r < '0' || r > '9') && r != '-' && r != '_'
}

// A ClientID is the value of DHCP option 61: a type byte and an identifier.
type ClientID []byte

// String returns the identifier as -client-id takes it.
func (id ClientID) String() string {
	if len(id) > 1 && id[0] == 0 {
		text := string(id[1:])
		if got, err := parseClientID(text); err == nil && string(got) == string(id) {
			return text
		}
	}
	return "hex:" + hex.EncodeToString(id)
}

// parseClientID takes text, sent with type 0 (RFC 2132 §9.14: not a hardware
// address), or hex: and every byte, the type included.
func parseClientID(s string) (ClientID, error) {
	digits, isHex := strings.CutPrefix(s, "hex:")
	if !isHex {
		if s == "" || len(s) > 254 || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			return nil, fmt.Errorf("%s is not an identifier: give 1 to 254 bytes of text, or hex: and its bytes", quote(s))
		}
		return append(ClientID{0}, s...), nil
	}
	id, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if err != nil || len(id) < 2 || len(id) > 255 {
		return nil, fmt.Errorf("%s is not an identifier: after hex: give 2 to 255 bytes, the type first", quote(s))
	}
	return id, nil
}

func parseMAC(s string) (net.HardwareAddr, error) {
	if s == "random" {
		return nil, nil
	}
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6:
		return nil, fmt.Errorf("%s is not a MAC address: give one like 5e:00:53:00:00:01, or random", quote(s))
	case mac[0]&1 != 0:
		return nil, fmt.Errorf("%s is a group's address: the first byte of one machine's is even", quote(s))
	case mac.String() == "00:00:00:00:00:00":
		return nil, fmt.Errorf("%s is no machine's address: give another, or random", quote(s))
	}
	return mac, nil
}

func parseMode(s string) (Mode, error) {
	for _, m := range []Mode{ModeAuto, ModeNetstack, ModeTAP} {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%s is not a mode: give auto, netstack or tap", quote(s))
}

// parseInterface takes what pkg/tap can name an interface, or nothing: then the
// kernel chooses. To the kernel a percent sign makes a pattern, and bytes beyond
// ASCII may be spaces.
func parseInterface(s string) (string, error) {
	const longest = 15 // IFNAMSIZ less its zero byte
	var why string
	switch {
	case len(s) > longest:
		why = fmt.Sprintf("has more than %d characters", longest)
	case s == "." || s == ".." || s == "all" || s == "default":
		why = "means something else to the kernel"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }):
		why = "has other characters than ASCII ones without space, slash, colon and percent sign"
	default:
		return s, nil
	}
	return "", fmt.Errorf("%s %s: give a name like vpn0 or br0", quote(s), why)
}

// parseTable takes the number of a routing table, or 0 for none.
func parseTable(s string) (int, error) {
	// Of the kernel: local, main and default; rtnetlink(7). Of pkg/netcfg/host: one
	// for each TAP, by its index.
	const kernelFirst, kernelLast, ownFirst, ownLast = 253, 255, 0x5e000000, 0x5effffff
	n, err := strconv.ParseUint(s, 10, 31)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s is not a routing table's number: give one like 200, or 0 for none", quote(s))
	case kernelFirst <= n && n <= kernelLast:
		return 0, fmt.Errorf("%d is a table of the kernel's own: give another, such as 200", n)
	case ownFirst <= n && n <= ownLast:
		return 0, fmt.Errorf("%d is one of the tables we use for ourselves: give another, such as 200", n)
	}
	return int(n), nil
}

func parseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s is not a positive duration: give one like 5s or 1m30s", quote(s))
	}
	return d, nil
}

func parseLevel(s string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(s, level.String()) {
			return level, nil
		}
	}
	return 0, fmt.Errorf("%s is not a level: give debug, info, warn or error", quote(s))
}

// parseProxyUser refuses what a login cannot carry: Basic ends the name at a
// colon (RFC 7617 §2), SOCKS5 takes 255 bytes (RFC 1929 §2).
func parseProxyUser(s string) (string, error) {
	if strings.Contains(s, ":") {
		return "", fmt.Errorf("%s holds a colon, which HTTP proxy logins cannot carry", quote(s))
	}
	return parseName(s)
}
