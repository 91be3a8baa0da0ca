package underlay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

// A Proxy is one that leads to servers.
type Proxy struct {
	Scheme   string // http, https, socks4, socks4a, socks5 or socks5h
	Host     string
	Port     uint16
	User     string // empty means no login
	Password string // not for SOCKS4, which has none
	// Header is sent with HTTP's CONNECT besides our own. It may hold secrets.
	Header http.Header
	// Roots replaces the system's certification authorities for https.
	Roots *x509.CertPool
}

// String returns the proxy's URL without the login.
func (p *Proxy) String() string {
	return p.Scheme + "://" + net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
}

// A ProxyError says what went wrong at a proxy, or on the way to it. It holds
// no secret.
type ProxyError struct {
	Proxy string // its URL, without the login
	Err   error
	final bool
}

func (e *ProxyError) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// Permanent reports that another attempt makes no sense: the proxy does not know
// us, or is not the right one.
func (e *ProxyError) Permanent() bool { return e.final }

// final marks an error of a proxy that no retry can mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

var (
	errNotHTTP   = errors.New("it does not answer as an HTTP proxy; are the scheme and port in its URL right?")
	errNotSOCKS4 = errors.New("it does not answer as a SOCKS4 proxy; are the scheme and port in its URL right?")
	errNotSOCKS5 = errors.New("it does not answer as a SOCKS5 proxy; are the scheme and port in its URL right?")
	errHungUp    = errors.New("it closed the connection without an answer")
	errNoAnswer  = errors.New("it took the connection and did not answer in time; does it reach the server, and are the scheme and port in its URL right?")
)

func errBadLogin(how string) error {
	return final{fmt.Errorf("it refuses our user and password (%s): correct them", how)}
}

func errNoLogin(how string) error {
	return final{fmt.Errorf("it wants a user and password (%s): put USER@ before the host in its URL, and the password into a file", how)}
}

func errForbidden(target, how string) error {
	return fmt.Errorf("it does not allow connections to %s (%s): try another port of the server, or ask the proxy's administrator", target, how)
}

func errUnreachable(target, how string) error {
	return fmt.Errorf("it cannot reach %s (%s)", target, how)
}

// through connects to host:port by way of p.
func (d *Dialer) through(ctx context.Context, p *Proxy, host string, port uint16) (net.Conn, error) {
	hosts, err := d.named(ctx, p, host)
	if err != nil {
		return nil, err
	}
	var first error
	for _, h := range hosts {
		conn, err := d.throughTo(ctx, p, h, port)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		var pe *ProxyError
		if ctx.Err() != nil || errors.As(err, &pe) && pe.Permanent() {
			break
		}
	}
	return nil, first
}

// named returns how to name the server to the proxy: as it is, or by its addresses if
// p's scheme says that we look them up.
func (d *Dialer) named(ctx context.Context, p *Proxy, host string) ([]string, error) {
	four := p.Scheme == "socks4" || p.Scheme == "socks4a"
	literal, err := netip.ParseAddr(host)
	isName := err != nil
	if isName && p.Scheme != "socks4" && p.Scheme != "socks5" {
		return []string{host}, nil
	}
	addrs := []netip.Addr{literal}
	if isName {
		if addrs, err = d.resolve(ctx, host); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, a := range addrs {
		if !four || a.Is4() {
			names = append(names, a.String())
		}
	}
	if len(names) == 0 {
		return nil, &ProxyError{p.String(), fmt.Errorf("SOCKS4 is for IPv4, and %s has no such address: use socks5, if the proxy has it", host), false}
	}
	if isName {
		d.remember(host, addrs)
	}
	return names, nil
}

func (d *Dialer) throughTo(ctx context.Context, p *Proxy, host string, port uint16) (net.Conn, error) {
	raw, err := d.reach(ctx, overTCP, p.Host, p.Port)
	if err != nil {
		return nil, &ProxyError{p.String(), err, false}
	}
	conn, err := p.join(ctx, raw, host, port)
	if err == nil {
		return conn, nil
	}
	raw.Close()
	if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			err = errNoAnswer
		} else {
			err = context.Cause(ctx)
		}
	}
	var f final
	if errors.As(err, &f) {
		return nil, &ProxyError{p.String(), f.error, true}
	}
	return nil, &ProxyError{p.String(), hungUp(err), false}
}

// hungUp says what the end of a connection means.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return errHungUp
	}
	return err
}

// join asks the proxy on raw for a connection. It returns when ctx ends.
func (p *Proxy) join(ctx context.Context, raw net.Conn, host string, port uint16) (conn net.Conn, err error) {
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil { // ctx has ended, and the connection's deadline is past
			err = context.Cause(ctx)
		}
	}()
	conn = raw
	if p.Scheme == "https" {
		if conn, err = p.secure(ctx, raw); err != nil {
			return nil, err
		}
	}
	switch p.Scheme {
	case "http", "https":
		err = p.joinHTTP(conn, net.JoinHostPort(host, strconv.Itoa(int(port))))
	case "socks4", "socks4a":
		err = p.joinSOCKS4(conn, host, port)
	case "socks5", "socks5h":
		err = p.joinSOCKS5(conn, host, port)
	default:
		err = final{fmt.Errorf("unknown scheme %q", p.Scheme)}
	}
	return conn, err
}

// secure puts TLS between the proxy and us.
func (p *Proxy) secure(ctx context.Context, raw net.Conn) (net.Conn, error) {
	conn := tls.Client(raw, &tls.Config{
		ServerName: p.Host, RootCAs: p.Roots, MinVersion: tls.VersionTLS12,
		DynamicRecordSizingDisabled: true,
	})
	err := conn.HandshakeContext(ctx)
	var untrusted *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &untrusted):
		return nil, final{fmt.Errorf("its certificate is not trusted: %w", untrusted.Err)}
	case errors.As(err, &plain):
		return nil, fmt.Errorf("it does not speak TLS; is it an http:// proxy? (%w)", err)
	}
	return conn, err
}
