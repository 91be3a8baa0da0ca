// Package tap is a network interface of the kernel as an endpoint of the tunnel:
// what the host sends by the interface goes out to the VPN, and what comes from
// the VPN the host receives by the interface. It works on Linux only.
//
// # Theory of operation
//
// Open makes a TAP interface by /dev/net/tun and holds it by a file descriptor. The
// interface lives exactly as long as that descriptor: with Close, or with the
// process however it ends, the kernel removes it and with it every address and
// route on it. So nothing has to be cleaned up, and nothing can be left behind.
//
// The interface does not change while sessions come and go. Run ends without
// touching it (a read deadline in the past wakes the reader), and the next Run
// carries on; sockets bound to its addresses do not notice. What the host sends
// meanwhile waits in the kernel's queue of 500 frames, then the kernel drops it.
//
//	host ─► queue of the interface ─► Run: read until empty or full ─► cut ─► dst.WriteFrames
//	host ◄── receive path of the kernel ◄── one write per run of frames ◄── glue ◄─ WriteFrames
//
// Run waits once and then reads until the queue is empty or its batch is full: under
// load frames travel in batches, and an idle interface adds no delay. Of a flood of
// small frames some gather for a quarter of a millisecond before it reads on. A write passes
// through the kernel's whole receive path before it returns, so there is no queue in
// that direction and nothing to wait for.
//
// # Super-frames
//
// A system call and a walk through the kernel's stack cost about the same for 1500
// bytes as for 64 KiB. So the device acts towards the kernel like a network card that
// segments and coalesces, and package offload does the work of the card:
//
//   - The kernel hands over TCP segments and UDP datagrams by the dozen, in one
//     super-frame with one read. It says in a header before each frame
//     (IFF_VNET_HDR, struct virtio_net_hdr) how to cut it, and which checksum it left
//     to be completed. Split does both.
//   - Frames of one call of WriteFrames that continue each other go to the kernel as
//     one super-frame, gathered by writev from where they lie. The Coalescer has
//     verified each one's checksums and says so in the same header. A frame with a
//     wrong checksum is never part of one: it goes to the kernel as it came, for the
//     kernel to reject and count. Nothing waits for more than its own batch.
//
// The tunnel only ever sees frames as the kernel would have cut them, and the kernel
// cuts by itself what it forwards, as by a bridge, to an interface that cannot.
//
// Open asks the kernel for all this and tries it out with a frame for nobody. It does
// without what is refused: USO (Linux before 6.2), super-frames to the host, or
// headers altogether. Offload tells what there is. The trials show as receive drops
// of the interface, two in all.
//
// The device does not set the link up, nor addresses or routes: package host does.
// While the link is down the host sends nothing, and frames for it are dropped.
//
// # Limits
//
// A frame has at least an Ethernet header and at most frame.MaxLen bytes. Others are
// dropped and counted, in both directions, pieces of super-frames too. VLAN tags and
// any EtherType pass. Super-frames are of TCP and UDP with at most two VLAN tags.
//
// A Device has 64 KiB for what it reads and a few hundred for the batch cut from it,
// a megabyte at worst; both stay for its life.
//
// # Errors
//
// Open's are one line that says what to do about it; it leaves no interface behind.
// Whatever becomes of a single frame, the device goes on and counts it. What ends it
// is Close (net.ErrClosed) and the removal of the interface by somebody else
// (ErrGone); either holds for every later call.
//
// # Goroutines
//
// There are none: Run and WriteFrames work on their callers. One Run at a time;
// everything else may be called at any time from any goroutine.
package tap

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"softether-go/pkg/frame"
)

// ErrGone says that the interface was removed, as by "ip link delete". The Device
// has to be closed then; only another Open brings an interface back.
var ErrGone = errors.New("the interface was removed by somebody else")

const (
	// maxName is the longest name of an interface: IFNAMSIZ less the final zero byte.
	maxName = 15

	// minMTU is the least that IPv4 allows (RFC 791) and the kernel accepts.
	// IPv6 needs 1280; below that the kernel switches it off on the interface.
	minMTU = 68
)

// A Config says what interface to make.
type Config struct {
	Name string           // empty means the kernel's choice, such as tap0
	MAC  net.HardwareAddr // nil means the kernel's choice, a random one
	MTU  int              // IP bytes; zero means 1500
	Log  *slog.Logger     // nil discards

	// ThinAcks says to leave out what acknowledgements of the VPN repeat before the host
	// hears of them (see package offload). It is for an interface whose connections end
	// at the host, not for one that passes frames on.
	ThinAcks bool

	// Plain says to exchange every frame with the kernel by itself, as with a kernel
	// that knows no super-frames: for comparison, and should a kernel err in them.
	Plain bool
}

func (c Config) withDefaults() Config {
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// check finds what cannot work on any host.
func (c Config) check() error {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return err
		}
	}
	if c.MAC != nil {
		if err := checkMAC(c.MAC); err != nil {
			return err
		}
	}
	if c.MTU < minMTU || c.MTU > frame.MaxMTU {
		return fmt.Errorf("MTU %d is out of range: choose %d to %d, usually 1500", c.MTU, minMTU, frame.MaxMTU)
	}
	return nil
}

// checkName asks for a little more than the kernel does: "%d" would be a pattern to
// it, and bytes beyond ASCII may count as spaces.
func checkName(name string) error {
	var why string
	switch {
	case len(name) > maxName:
		why = fmt.Sprintf("it has %d bytes, and a name has at most %d", len(name), maxName)
	case name == "." || name == ".." || name == "all" || name == "default":
		why = "it has a meaning of its own to the kernel"
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }):
		why = "a name is of ASCII characters without space, slash, colon and percent sign"
	default:
		return nil
	}
	return fmt.Errorf("%q cannot name an interface: %s; choose one such as vpn0", name, why)
}

func checkMAC(mac net.HardwareAddr) error {
	const remedy = "choose a unicast one, such as 5e:00:53:12:34:56, or none for a random one"
	switch {
	case len(mac) != 6:
		return fmt.Errorf("MAC address %q has %d bytes instead of 6: %s", mac.String(), len(mac), remedy)
	case frame.IsGroup(mac):
		return fmt.Errorf("MAC address %v is a multicast address: %s", mac, remedy)
	case string(mac) == "\x00\x00\x00\x00\x00\x00":
		return fmt.Errorf("MAC address %v is no address: %s", mac, remedy)
	}
	return nil
}

// nameError puts the interface in front of what went wrong with it.
func nameError(name string, err error) error {
	if name == "" {
		return fmt.Errorf("tap: %w", err)
	}
	return fmt.Errorf("tap %s: %w", name, err)
}

// An Offload says for which transports the kernel exchanges super-frames.
type Offload struct {
	OutTCP, OutUDP bool // what the host sends
	InTCP, InUDP   bool // what it receives
}

// Stats counts frames since Open. Inbound ones come from the VPN and are written to
// the interface, outbound ones are read from it. Each frame that does not get
// through is counted once, by the reason. What the kernel drops because its queue
// is full before Run reads it only the kernel counts, as dropped by the interface.
//
// Bytes are those of frames, without the padding of frames that became part of a
// super-frame. Super-frames are counted beside the frames that they are made of.
type Stats struct {
	InFrames, InBytes, InBatches uint64
	InSupers, InSegments         uint64 // super-frames, and how many of InFrames were in them
	InThinned                    uint64 // acknowledgements that a later one of the batch supersedes; not among InFrames
	InMalformed                  uint64 // shorter than a header, or longer than frame.MaxLen
	InLinkDown                   uint64 // the interface is not up
	InNoBuffer                   uint64 // the kernel had no memory for it
	InRefused                    uint64 // the kernel did not want it for another reason

	OutFrames, OutBytes, OutBatches uint64
	OutSupers, OutSegments          uint64 // super-frames, and how many frames they were cut into
	OutMalformed                    uint64 // longer than frame.MaxLen: somebody raised the MTU
	OutUncut                        uint64 // a super-frame that is not what its virtio header says
}
