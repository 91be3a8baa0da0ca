package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/things-go/go-socks5/statute"
)

// The results of SOCKS4, whose messages have 8 fixed bytes both ways (Ying-Da Lee,
// "SOCKS: A protocol for TCP proxy across firewalls").
const (
	granted4  = 90 // request granted
	rejected4 = 91 // rejected or failed, for whatever reason
	identity4 = 93 // the user is not who they say
	header4   = 8  // version or zero, command or result, port, address
)

// maxUserID bounds the user id, which is not used: as long as SOCKS5's.
const maxUserID = maxCredential

// reply4 is the code that answers a refusal in SOCKS4. It has one for a user who
// could not be confirmed and one for everything else.
func (r Reason) reply4() byte {
	if r == Unauthorized {
		return identity4
	}
	return rejected4
}

// request4 reads a request of SOCKS4, or of 4a, where an address that cannot be meant
// stands for a name that follows. The user id proves nothing, so where a password is
// asked for there is no way in.
func (s *server) request4(in *ahead) (*request, *refusal) {
	head := make([]byte, header4)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, in.broken("request", err)
	}
	addr := netip.AddrFrom4([4]byte(head[4:]))
	req := &request{version: socks4, command: head[1], host: addr.String(), port: int(binary.BigEndian.Uint16(head[2:]))}
	if _, err := readText4(in, maxUserID); err != nil {
		return nil, in.broken("user id", err)
	}
	// 0.0.0.x with another x than 0 (SOCKS 4A, also by Ying-Da Lee).
	if [3]byte(head[4:]) == [3]byte{} && head[7] != 0 {
		name, err := readText4(in, maxHost)
		if err != nil {
			return nil, in.broken("name", err)
		}
		req.host = name
	}
	switch {
	case s.Auth != nil:
		return nil, socks4.refuse(Unauthorized, errors.New("SOCKS4 cannot carry the password that is asked for"))
	case req.command != statute.CommandConnect && req.command != statute.CommandBind:
		return nil, socks4.refuse(BadCommand, fmt.Errorf("command %d, which SOCKS4 does not have", req.command))
	}
	return req, nil
}

// errLong is that a text has no end within its bounds.
var errLong = errors.New("longer than allowed")

// readText4 reads a text of at most limit bytes and the zero byte that ends it.
func readText4(in io.ByteReader, limit int) (string, error) {
	var text strings.Builder
	for {
		b, err := in.ReadByte()
		switch {
		case err == io.EOF:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case b == 0:
			return text.String(), nil
		case text.Len() == limit:
			return "", errLong
		}
		text.WriteByte(b)
	}
}

// reply4 returns a SOCKS4 reply, with zeros for an address that it cannot carry.
func reply4(code byte, bound net.Addr) []byte {
	b := make([]byte, header4)
	b[1] = code
	if ap := addrPort(bound); ap.Addr().Is4() {
		binary.BigEndian.PutUint16(b[2:], ap.Port())
		copy(b[4:], ap.Addr().AsSlice())
	}
	return b
}
