// Package frame defines how Ethernet frames move between the tunnel and the host.
//
// # Theory of operation
//
// Everything that can give and take frames is an Endpoint: a VPN session, a TAP
// device, a user-space network stack, a test double. Join plugs two of them
// together like a cable. Whatever stands in between (a filter, a counter, a
// capture, a fault) is a Writer that wraps the next Writer.
//
// Frames are pushed. Each endpoint owns its reading loop and its buffers and
// lends a batch of views to the next Writer for the length of one call. So a
// frame crosses any number of Writers without a copy, a channel or an
// allocation, and an endpoint with several sources (a session with several
// connections) simply pushes from each of them.
//
// A frame is one Ethernet II frame without FCS. What is larger inside an
// endpoint, such as a 64 KiB super-frame of a TAP or a network stack, is split
// by that endpoint straight into a batch of frames and coalesced from one.
//
// Directions are named relative to the tunnel: inbound is from the VPN server
// towards us, outbound from us towards the server.
package frame

import (
	"context"
	"encoding/binary"

	"golang.org/x/sync/errgroup"
)

const (
	// HeaderLen is the length of an Ethernet header: two addresses and a type.
	HeaderLen = 14

	// MaxLen is the longest frame the tunnel carries. A longer one is dropped by
	// the peer without notice (Cedar/Cedar.h, MAX_PACKET_SIZE).
	MaxLen = 1600

	// MaxMTU is the largest IP packet in a frame of MaxLen. The usual value is 1500.
	MaxMTU = MaxLen - HeaderLen
)

// EtherTypes this project looks at.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd
)

// A Writer takes Ethernet frames.
//
// Frames arrive in order and are lent: neither the outer slice nor the bytes
// may be changed or kept after WriteFrames returns. One call is one batch, and
// the Writer puts the whole batch in motion before returning; there is no flush.
//
// A frame the Writer cannot carry (too short, too long, queue full) is dropped
// and counted. An error means the Writer itself is finished and no later call
// will succeed. WriteFrames may be called from several goroutines. Whether it
// may block, and on what, is documented by each implementation.
type Writer interface {
	WriteFrames(frames [][]byte) error
}

// WriterFunc is a function used as a Writer.
type WriterFunc func(frames [][]byte) error

// WriteFrames calls f.
func (f WriterFunc) WriteFrames(frames [][]byte) error { return f(frames) }

// An Endpoint is one end of the virtual cable: a VPN session, a TAP device,
// a user-space network stack, or a test double.
type Endpoint interface {
	Writer

	// Run hands the endpoint's own frames to dst until ctx ends, the endpoint is
	// closed, or dst fails. It always returns a non-nil error saying which:
	// ctx.Err() and net.ErrClosed (tested with errors.Is) are orderly stops.
	// Every goroutine it starts has ended by the time it returns. One Run at a
	// time; a later Run, with another dst, continues where this one stopped.
	Run(ctx context.Context, dst Writer) error
}

// Join carries frames both ways between a and b until either stops or ctx ends,
// and returns the first cause. It closes neither.
func Join(ctx context.Context, a, b Endpoint) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx, b) })
	g.Go(func() error { return b.Run(ctx, a) })
	return g.Wait()
}

// Dst returns the destination address of f, a view. f has at least HeaderLen bytes.
func Dst(f []byte) []byte { return f[0:6:6] }

// Src returns the source address of f, a view. f has at least HeaderLen bytes.
func Src(f []byte) []byte { return f[6:12:12] }

// EtherType returns the type field of f. f has at least HeaderLen bytes.
func EtherType(f []byte) uint16 { return binary.BigEndian.Uint16(f[12:14]) }

// Payload returns what follows the Ethernet header of f, a view. f has at least
// HeaderLen bytes.
func Payload(f []byte) []byte { return f[HeaderLen:] }

// IsGroup reports whether mac is a multicast or broadcast address.
func IsGroup(mac []byte) bool { return mac[0]&1 != 0 }

// PutHeader writes an Ethernet header into b, which has at least HeaderLen bytes.
func PutHeader(b, dst, src []byte, etherType uint16) {
	copy(b[0:6], dst)
	copy(b[6:12], src)
	binary.BigEndian.PutUint16(b[12:14], etherType)
}
