package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// SOCKS by hand, as golang.org/x/net/proxy has no SOCKS4 and hides the proxy's codes,
// which are what a person needs to hear.

// joinSOCKS4 asks for a connection by "SOCKS: A protocol for TCP proxy across
// firewalls" (Ying-Da Lee), or with a name by its extension 4A.
func (p *Proxy) joinSOCKS4(conn net.Conn, host string, port uint16) error {
	request := binary.BigEndian.AppendUint16([]byte{4, 1 /* connect */}, port)
	addr, err := netip.ParseAddr(host)
	if err == nil {
		ip := addr.As4()
		request = append(request, ip[:]...)
	} else {
		request = append(request, 0, 0, 0, 1) // 4A: a name follows
	}
	request = append(append(request, p.User...), 0)
	if err != nil {
		request = append(append(request, host...), 0)
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	var answer [8]byte
	if err := readSOCKS(conn, answer[:], 0, errNotSOCKS4); err != nil {
		return err
	}
	how := fmt.Sprintf("SOCKS4 code %d", answer[1])
	switch answer[1] {
	case 90:
		return nil
	case 91:
		return fmt.Errorf("it refuses or cannot reach %s (%s)", net.JoinHostPort(host, fmt.Sprint(port)), how)
	case 92, 93:
		return final{fmt.Errorf("it refuses the user in its URL, or wants this machine to run identd (%s)", how)}
	}
	return errNotSOCKS4
}

// joinSOCKS5 asks for a connection by RFC 1928, with the login of RFC 1929.
func (p *Proxy) joinSOCKS5(conn net.Conn, host string, port uint16) error {
	if err := p.loginSOCKS5(conn); err != nil {
		return err
	}
	request := []byte{5, 1 /* connect */, 0}
	switch addr, err := netip.ParseAddr(host); {
	case err != nil && len(host) > 255:
		return final{fmt.Errorf("%d bytes are too long for a server's name", len(host))}
	case err != nil:
		request = append(append(request, 3, byte(len(host))), host...)
	case addr.Is4():
		request = append(append(request, 1), addr.AsSlice()...)
	default:
		request = append(append(request, 4), addr.AsSlice()...)
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint16(request, port)); err != nil {
		return err
	}
	return readSOCKS5Reply(conn, net.JoinHostPort(host, fmt.Sprint(port)))
}

// loginSOCKS5 settles how to log in, and does.
func (p *Proxy) loginSOCKS5(conn net.Conn) error {
	const none, password, refused = 0, 2, 0xff
	offer := []byte{5, 1, none}
	if p.User != "" {
		offer = []byte{5, 2, none, password}
	}
	if _, err := conn.Write(offer); err != nil {
		return err
	}
	var choice [2]byte
	if err := readSOCKS(conn, choice[:], 5, errNotSOCKS5); err != nil {
		return err
	}
	switch {
	case choice[1] == none:
		return nil
	case choice[1] == refused && p.User == "":
		return errNoLogin("SOCKS5 accepts no connection without a login")
	case choice[1] == refused:
		return final{errors.New("it takes neither a user with a password nor a connection without (SOCKS5 found no common method)")}
	case choice[1] != password || p.User == "":
		return errNotSOCKS5
	}
	if len(p.User) > 255 || len(p.Password) > 255 || p.Password == "" {
		return final{errors.New("SOCKS5 takes users and passwords of 1 to 255 bytes")}
	}
	login := append([]byte{1, byte(len(p.User))}, p.User...)
	login = append(append(login, byte(len(p.Password))), p.Password...)
	if _, err := conn.Write(login); err != nil {
		return err
	}
	var verdict [2]byte
	// Some hang up at once, with or without the verdict.
	if _, err := io.ReadFull(conn, verdict[:]); errors.Is(err, io.EOF) {
		return errBadLogin("it hung up")
	} else if err != nil {
		return err
	}
	if verdict[1] != 0 {
		return errBadLogin(fmt.Sprintf("SOCKS5 status %d", verdict[1]))
	}
	return nil
}

// readSOCKS5Reply reads the answer to a request, with the address that nobody needs.
func readSOCKS5Reply(conn net.Conn, target string) error {
	var verdict [2]byte
	if err := readSOCKS(conn, verdict[:], 5, errNotSOCKS5); err != nil {
		return err
	}
	if verdict[1] != 0 { // some send no more then
		return errSOCKS5(verdict[1], target)
	}
	var head [3]byte // with the first byte of the address
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	rest := 0
	switch head[1] {
	case 1:
		rest = net.IPv4len - 1
	case 4:
		rest = net.IPv6len - 1
	case 3:
		rest = int(head[2])
	default:
		return errNotSOCKS5
	}
	_, err := io.CopyN(io.Discard, conn, int64(rest)+2)
	return err
}

func errSOCKS5(code byte, target string) error {
	how := fmt.Sprintf("SOCKS5 code %d", code)
	switch code { // RFC 1928, 6
	case 1:
		return fmt.Errorf("it failed to connect to %s for a reason of its own (%s)", target, how)
	case 2:
		return errForbidden(target, how)
	case 3:
		return errUnreachable(target, how+", network unreachable")
	case 4:
		return errUnreachable(target, how+", host unreachable")
	case 5:
		return errUnreachable(target, how+", connection refused")
	case 6:
		return errUnreachable(target, how+", time-out")
	case 7:
		return final{fmt.Errorf("it does not do connections (%s)", how)}
	case 8:
		return fmt.Errorf("it does not take addresses of the kind of %s (%s): use socks5h for names, or an IPv4 address", target, how)
	}
	return errNotSOCKS5
}

// readSOCKS fills b, whose first byte must be version. What else answers is not a
// SOCKS proxy, and may never send as much.
func readSOCKS(conn net.Conn, b []byte, version byte, otherwise error) error {
	if _, err := io.ReadFull(conn, b[:1]); err != nil {
		return err
	}
	if b[0] != version {
		return otherwise
	}
	_, err := io.ReadFull(conn, b[1:])
	return err
}
