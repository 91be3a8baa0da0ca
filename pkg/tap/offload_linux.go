package tap

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
)

// errHeaders says that there are no virtio headers to be had. It does not leave Open.
var errHeaders = errors.New("virtio headers are refused")

// negotiateReading tells the kernel that the device takes super-frames and completes
// checksums: as much of that as the kernel knows. USO came with Linux 6.2.
func (d *Device) negotiateReading(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, offload.VirtioLen); err != nil {
		return fmt.Errorf("%w: set their length: %w", errHeaders, err)
	}
	d.headers = true
	const (
		tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
		udp = unix.TUN_F_USO4 | unix.TUN_F_USO6
	)
	for _, features := range []int{tcp | udp, tcp} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, features) == nil {
			d.offload.OutTCP, d.offload.OutUDP = true, features&udp != 0
			break
		}
	}
	return nil
}

// probeWriting finds out whether the kernel takes super-frames. Any since 2.6.27 takes
// those of TCP and any since 6.2 those of UDP, but a few releases of 2024 refuse what
// they should take (Linux commit e269d79c7d35, mended by 89add40066f9).
func (d *Device) probeWriting(fd int) {
	d.offload.InTCP = d.takes(fd, offload.TCPv4)
	d.offload.InUDP = d.offload.InTCP && d.takes(fd, offload.UDP)
	d.coalescer.UDP = d.offload.InUDP
}

// takes tries a super-frame of two datagrams or segments of which the second is
// shorter. Nobody gets it: the link is down, which the kernel looks at last. Should
// somebody have set it up already, the frame is for another host.
func (d *Device) takes(fd int, t offload.Type) bool {
	const size, l4 = 100, frame.HeaderLen + 20
	m := offload.Meta{GSO: t, NeedsCsum: true, Size: size, HdrLen: l4 + 20, CsumStart: l4, CsumOffset: 16}
	proto := byte(unix.IPPROTO_TCP)
	if t == offload.UDP {
		m.HdrLen, m.CsumOffset, proto = l4+8, 6, unix.IPPROTO_UDP
	}
	f := make([]byte, m.HdrLen+size+1)
	frame.PutHeader(f, []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, frame.TypeIPv4)
	ip := f[frame.HeaderLen:] // of no addresses and with a TTL of zero
	ip[0], ip[9] = 0x45, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	if t == offload.UDP {
		binary.BigEndian.PutUint16(f[l4+4:], uint16(len(f)-l4))
	} else {
		f[l4+12] = 5 << 4
	}
	err := d.send(fd, &offload.Super{Header: f, Meta: m})
	return err == nil || err == unix.EIO
}
