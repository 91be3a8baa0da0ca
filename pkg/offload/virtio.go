package offload

import (
	"encoding/binary"
	"errors"
)

// VirtioLen is the length of the struct virtio_net_hdr that Linux puts before each
// frame of a TAP device with IFF_VNET_HDR (include/uapi/linux/virtio_net.h). Its
// fields are in the machine's own byte order.
const VirtioLen = 10

const (
	virtioNeedsCsum = 1 // flags

	virtioNone  = 0 // gso_type
	virtioTCPv4 = 1
	virtioTCPv6 = 4
	virtioUDP   = 5 // VIRTIO_NET_HDR_GSO_UDP_L4, not the fragmenting UFO
	virtioECN   = 0x80
)

var errVirtioType = errors.New("offload: virtio header with a type that was not negotiated")

// ParseVirtio reads the header in b, which has at least VirtioLen bytes.
func ParseVirtio(b []byte) (Meta, error) {
	m := Meta{
		ECN:        b[1]&virtioECN != 0,
		NeedsCsum:  b[0]&virtioNeedsCsum != 0,
		HdrLen:     int(binary.NativeEndian.Uint16(b[2:])),
		Size:       int(binary.NativeEndian.Uint16(b[4:])),
		CsumStart:  int(binary.NativeEndian.Uint16(b[6:])),
		CsumOffset: int(binary.NativeEndian.Uint16(b[8:])),
	}
	switch b[1] &^ virtioECN {
	case virtioNone:
		m.GSO = Plain
	case virtioTCPv4:
		m.GSO = TCPv4
	case virtioTCPv6:
		m.GSO = TCPv6
	case virtioUDP:
		m.GSO = UDP
	default:
		return Meta{}, errVirtioType
	}
	return m, nil
}

// PutVirtio writes m as such a header into b, which has at least VirtioLen bytes.
func (m Meta) PutVirtio(b []byte) {
	b[0], b[1] = 0, virtioNone
	if m.NeedsCsum {
		b[0] = virtioNeedsCsum
	}
	switch m.GSO {
	case TCPv4:
		b[1] = virtioTCPv4
	case TCPv6:
		b[1] = virtioTCPv6
	case UDP:
		b[1] = virtioUDP
	}
	if m.ECN {
		b[1] |= virtioECN
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(m.HdrLen))
	binary.NativeEndian.PutUint16(b[4:], uint16(m.Size))
	binary.NativeEndian.PutUint16(b[6:], uint16(m.CsumStart))
	binary.NativeEndian.PutUint16(b[8:], uint16(m.CsumOffset))
}
