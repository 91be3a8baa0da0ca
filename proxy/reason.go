package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/things-go/go-socks5/statute"
)

// A Reason says why a client did not get what it asked for.
type Reason uint8

// The reasons by which refusals are counted. Those from Resolve to Other are
// outcomes of a dial.
const (
	Limit           Reason = iota // MaxConns clients are connected
	Slow                          // the handshake did not end in time
	Malformed                     // not the protocol of this port, or cut short
	Unauthorized                  // no, wrong or unusable credentials
	BadCommand                    // SOCKS: a command that is not known, or not to be had here
	BadAddressType                // SOCKS5: neither IPv4, IPv6 nor a name
	BadTarget                     // a name, port or URL that cannot be meant
	Resolve                       // the name was not resolved
	Refused                       // the target refused or reset the connection
	NotPermitted                  // our rules, the user's, or the dialer's policy
	Loop                          // the target is this proxy
	UserLimit                     // the user has as many connections as allowed
	Timeout                       // the target or its resolver did not answer
	HostUnreachable               // no such neighbour, or an ICMP message said so
	NetUnreachable                // no route, or no tunnel
	NoFamily                      // IPv4 or IPv6 not usable in the tunnel
	NoPort                        // no local port is left for this target
	Stranger                      // BIND: a connection from another than the peer; it is refused, the client waits on
	Canceled                      // the client hung up first, or the proxy closed
	Other                         // anything else
	numReasons
)

var reasons = [numReasons]struct {
	name   string // in counters and logs
	text   string // to the user
	reply  uint8  // SOCKS5
	status int    // HTTP
}{
	Limit:           {"limit", "too many connections", statute.RepServerFailure, http.StatusServiceUnavailable},
	Slow:            {"slow", "handshake timed out", statute.RepServerFailure, http.StatusRequestTimeout},
	Malformed:       {"malformed", "malformed request", statute.RepServerFailure, http.StatusBadRequest},
	Unauthorized:    {"unauthorized", "proxy user and password required", statute.RepRuleFailure, http.StatusProxyAuthRequired},
	BadCommand:      {"bad-command", "command not supported", statute.RepCommandNotSupported, http.StatusNotImplemented},
	BadAddressType:  {"bad-address-type", "address type not supported", statute.RepAddrTypeNotSupported, http.StatusBadRequest},
	BadTarget:       {"bad-target", "unusable target", statute.RepServerFailure, http.StatusBadRequest},
	Resolve:         {"resolve", "name not resolved", statute.RepHostUnreachable, http.StatusBadGateway},
	Refused:         {"refused", "connection refused", statute.RepConnectionRefused, http.StatusBadGateway},
	NotPermitted:    {"not-permitted", "not permitted", statute.RepRuleFailure, http.StatusForbidden},
	Loop:            {"loop", "the target is this proxy itself", statute.RepRuleFailure, http.StatusLoopDetected},
	UserLimit:       {"user-limit", "too many connections of this user", statute.RepRuleFailure, http.StatusTooManyRequests},
	Timeout:         {"timeout", "timed out", statute.RepTTLExpired, http.StatusGatewayTimeout},
	HostUnreachable: {"host-unreachable", "host unreachable", statute.RepHostUnreachable, http.StatusBadGateway},
	NetUnreachable:  {"net-unreachable", "network unreachable", statute.RepNetworkUnreachable, http.StatusBadGateway},
	NoFamily:        {"no-family", "address family not usable", statute.RepAddrTypeNotSupported, http.StatusBadGateway},
	NoPort:          {"no-port", "no local port left", statute.RepServerFailure, http.StatusServiceUnavailable},
	Stranger:        {"stranger", "not the expected peer", statute.RepRuleFailure, http.StatusForbidden},
	Canceled:        {"canceled", "canceled", statute.RepServerFailure, http.StatusServiceUnavailable},
	Other:           {"other", "request failed", statute.RepServerFailure, http.StatusBadGateway},
}

// String returns the name used in logs and counters.
func (r Reason) String() string { return reasons[r].name }

// errnos lists which errors of a dial mean what, the most telling first: of a name
// with two addresses, one refused and one without a route, the refusal says more.
var errnos = []struct {
	errno  syscall.Errno
	reason Reason
}{
	{syscall.ECONNREFUSED, Refused},
	{syscall.ECONNRESET, Refused},
	{syscall.EACCES, NotPermitted},
	{syscall.EPERM, NotPermitted},
	{syscall.ETIMEDOUT, Timeout},
	{syscall.EHOSTUNREACH, HostUnreachable},
	{syscall.EHOSTDOWN, HostUnreachable},
	{syscall.ENETUNREACH, NetUnreachable},
	{syscall.ENETDOWN, NetUnreachable},
	{syscall.EAFNOSUPPORT, NoFamily},
	{syscall.EADDRNOTAVAIL, NoPort},
}

// dialReason tells why a dial failed.
func dialReason(err error) Reason {
	if np, ok := errors.AsType[*notPermitted](err); ok {
		return np.why
	}
	// Before timeouts, as a resolver's timeout is one too.
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return Resolve
	}
	for _, e := range errnos {
		// A deadline is no errno but ranks where ETIMEDOUT does.
		if errors.Is(err, e.errno) || e.reason == Timeout && isTimeout(err) {
			return e.reason
		}
	}
	// Last, as of several attempts the winner's rivals are canceled.
	if errors.Is(err, context.Canceled) {
		return Canceled
	}
	return Other
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
