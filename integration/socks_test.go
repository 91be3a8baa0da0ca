//go:build linux

package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// socksReply is the server's answer to a request (RFC 1928, section 6).
type socksReply byte

const (
	socksSucceeded          socksReply = 0
	socksGeneralFailure     socksReply = 1
	socksNotAllowed         socksReply = 2
	socksHostUnreachable    socksReply = 4
	socksRefused            socksReply = 5
	socksAddressUnsupported socksReply = 8
)

func (r socksReply) Error() string { return fmt.Sprintf("SOCKS reply %d", byte(r)) }

// socksDial connects through the client's SOCKS5 proxy, naming the target by
// name. A refusal by the proxy is a socksReply.
func (w *world) socksDial(ctx context.Context, target string) (net.Conn, error) {
	conn, err := w.cli.Dial(ctx, socksProxy)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := socksConnect(conn, target); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// socksConnect asks for a connection and returns where from it is, as the proxy says.
func socksConnect(conn net.Conn, target string) (bound netip.AddrPort, err error) {
	host, portText, err := net.SplitHostPort(target)
	if err != nil {
		return bound, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return bound, err
	}
	request := append([]byte{5, 1, 0 /* no authentication */, 5, 1 /* connect */, 0, 3 /* by name */, byte(len(host))}, host...)
	request = binary.BigEndian.AppendUint16(request, uint16(port))
	if _, err := conn.Write(request); err != nil {
		return bound, err
	}
	answer := make([]byte, 2+4)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return bound, err
	}
	if code := socksReply(answer[3]); code != socksSucceeded {
		return bound, code
	}
	rest := make([]byte, map[byte]int{1: net.IPv4len, 4: net.IPv6len}[answer[5]]+2)
	if _, err := io.ReadFull(conn, rest); err != nil {
		return bound, err
	}
	addr, _ := netip.AddrFromSlice(rest[:len(rest)-2])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(rest[len(rest)-2:])), nil
}

// An innerConn is a connection through the tunnel to the site's echo service.
type innerConn struct {
	t testing.TB
	net.Conn
	sent int
}

func (w *world) dialEcho() *innerConn {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dial := w.socksDial
	if w.proxy == "" {
		dial = w.cli.Dial
	}
	conn, err := dial(ctx, net.JoinHostPort(w.siteAddress(), echoPort))
	if err != nil {
		w.t.Fatalf("connect to the echo service: %v", err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &innerConn{t: w.t, Conn: conn}
}

// Check sends a line and waits for its echo.
func (c *innerConn) Check(within time.Duration) {
	c.t.Helper()
	c.sent++
	line := fmt.Sprintf("line %d", c.sent)
	c.SetDeadline(time.Now().Add(within))
	if _, err := io.WriteString(c, line); err != nil {
		c.t.Fatalf("inner connection: write %q: %v", line, err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		c.t.Fatalf("inner connection: got echo %q, %v, want %q", got, err, line)
	}
}
