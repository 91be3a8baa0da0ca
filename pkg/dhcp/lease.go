package dhcp

import (
	"math"
	"net"
	"net/netip"
	"time"

	"softether-go/pkg/netcfg"
)

const (
	// minLease and minRenew keep a server from making us spin: a lease is renewed
	// at the earliest after minRenew, and minLease is the shortest that leaves
	// room for that at its half.
	minLease = 10 * time.Second
	minRenew = 5 * time.Second

	// defaultLease stands in for a lease time that is missing or zero. The server
	// broke a MUST; an hour is what most small ones mean, and the renewal tells.
	defaultLease = time.Hour

	// forever is the lease time that never ends (RFC 2131 §3.3).
	forever = math.MaxUint32 * time.Second
)

// A Lease is an address lent to us and everything that came with it.
// It is treated as immutable once handed on.
type Lease struct {
	netcfg.Config

	Server    netip.Addr       // who lent it (option 54)
	ServerMAC net.HardwareAddr // where its replies come from, which may be a router
	Broadcast netip.Addr       // option 28; invalid means not told. Informative
	Start     time.Time        // when it was asked for, from which the rest is counted

	// When it is renewed with its server, renewed with any server, and lost.
	// All zero in a lease without end.
	T1, T2, Expiry time.Time
}

// expired reports whether l has run out at now. Which clock decides is up to now:
// the monotonic one if it has a reading of that, else the one on the wall.
func (l Lease) expired(now time.Time) bool {
	return !l.Expiry.IsZero() && !now.Before(l.Expiry)
}

// schedule sets the times of a lease of the given length. t1 and t2 are what the
// server named, zero if nothing. Whatever is inconsistent falls back to the
// fractions of RFC 2131 §4.4.5.
func (l *Lease) schedule(start time.Time, length, t1, t2 time.Duration) {
	l.Start, l.T1, l.T2, l.Expiry = start, time.Time{}, time.Time{}, time.Time{}
	if length == forever {
		return
	}
	if length == 0 {
		length = defaultLease
	}
	length = max(length, minLease)
	if t2 <= minRenew || t2 >= length {
		t2 = length / 8 * 7
	}
	if t1 <= 0 || t1 > t2 {
		t1 = min(length/2, t2)
	}
	t1 = max(t1, minRenew)
	l.T1, l.T2, l.Expiry = start.Add(t1), start.Add(t2), start.Add(length)
}
