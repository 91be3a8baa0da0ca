package dhcp

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

// maxMessage is the largest message we ask for (option 57): what fits a packet
// of 1500 bytes. The usual 576 would be too little for a long list of routes.
const maxMessage = 1500 - inet.IPv4Len - inet.UDPLen

// wanted are the options asked for. A client must list 121 before 3 (RFC 3442).
var wanted = dhcpv4.OptParameterRequestList(
	dhcpv4.OptionSubnetMask,
	dhcpv4.OptionClasslessStaticRoute,
	optionMicrosoftRoutes,
	dhcpv4.OptionRouter,
	dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionDomainName,
	dhcpv4.OptionDNSDomainSearchList,
	dhcpv4.OptionInterfaceMTU,
	dhcpv4.OptionBroadcastAddress,
	dhcpv4.OptionNTPServers,
	dhcpv4.OptionIPAddressLeaseTime,
	dhcpv4.OptionServerIdentifier,
	dhcpv4.OptionRenewTimeValue,
	dhcpv4.OptionRebindingTimeValue,
)

// send writes the frame of x to out. The REQUEST for an offer takes an ARP probe
// for its address along.
func (c *Client) send(out frame.Writer, x *exchange) error {
	x.asked = time.Now()
	frames := [][]byte{c.compose(x)}
	if x.state == requesting {
		frames = append(frames, arpProbe(c.mac, x.addr))
	}
	if err := out.WriteFrames(frames); err != nil {
		return fmt.Errorf("dhcp: send while %v: %w", x.state, err)
	}
	return nil
}

// compose returns the frame that asks x.
func (c *Client) compose(x *exchange) []byte {
	m := c.message(dhcpv4.MessageTypeRequest, x.xid)
	m.NumSeconds = uint16(min(x.asked.Sub(x.since)/time.Second, math.MaxUint16))
	if x.broadcast {
		m.SetBroadcast()
	}
	m.UpdateOption(wanted)
	m.UpdateOption(dhcpv4.OptMaxMessageSize(maxMessage))
	if c.hostname != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.hostname))
	}
	p := c.toAll()
	switch x.state {
	case selecting:
		m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
		if x.addr.IsValid() {
			m.UpdateOption(dhcpv4.OptRequestedIPAddress(x.addr.AsSlice()))
		}
	case rebooting:
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(x.addr.AsSlice()))
	case requesting:
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(x.addr.AsSlice()))
		m.UpdateOption(dhcpv4.OptServerIdentifier(x.server.AsSlice()))
	case renewing:
		m.ClientIPAddr = x.addr.AsSlice()
		p = path{srcMAC: c.mac, dstMAC: x.serverMAC, src: x.addr, dst: x.server}
	case rebinding:
		m.ClientIPAddr = x.addr.AsSlice()
		p.src = x.addr
	}
	return appendDatagram(nil, p, m.ToBytes())
}

// sendFinal writes a message about l that is not answered: a RELEASE to its
// server, or a DECLINE to all (RFC 2131 §4.4.4).
func (c *Client) sendFinal(out frame.Writer, kind dhcpv4.MessageType, l Lease) error {
	var x xid
	if _, err := io.ReadFull(c.rand, x[:]); err != nil {
		return fmt.Errorf("dhcp: random transaction number: %w", err)
	}
	addr := l.Address.Addr()
	m := c.message(kind, x)
	m.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	p := c.toAll()
	if kind == dhcpv4.MessageTypeRelease {
		m.ClientIPAddr = addr.AsSlice()
		p = path{srcMAC: c.mac, dstMAC: mac(l.ServerMAC), src: addr, dst: l.Server}
	} else {
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(addr.AsSlice()))
	}
	if err := out.WriteFrames([][]byte{appendDatagram(nil, p, m.ToBytes())}); err != nil {
		return fmt.Errorf("dhcp: send %v of %v: %w", kind, addr, err)
	}
	return nil
}

// message returns what all our messages have in common.
func (c *Client) message(kind dhcpv4.MessageType, x xid) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		TransactionID: x,
		ClientHWAddr:  net.HardwareAddr(c.mac[:]),
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptClientIdentifier(c.clientID))
	return m
}

// toAll is the path of a client without an address.
func (c *Client) toAll() path {
	return path{srcMAC: c.mac, dstMAC: broadcastMAC, src: netip.IPv4Unspecified(), dst: broadcastIP}
}
