package host

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// announce tells the network which MAC address has ours, in case it has forgotten:
// an ARP announcement (RFC 5227, 2.3). It waits in the TAP's queue until frames flow.
func announce(index int, mac [6]byte, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, announcement(mac, addr), 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}})
}

// announcement is the frame: a request for our own address, to all (RFC 826).
func announcement(mac [6]byte, addr netip.Addr) []byte {
	own := addr.As4()
	f := make([]byte, 0, 42)
	f = append(f, 255, 255, 255, 255, 255, 255)
	f = append(f, mac[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, their lengths, request
	f = append(f, mac[:]...)
	f = append(f, own[:]...)
	f = append(f, make([]byte, 6)...)
	return append(f, own[:]...)
}
