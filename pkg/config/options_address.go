package config

import (
	"net"
	"net/netip"
)

var addressOptions = []option{
	{addressing, "mac", "ADDRESS", "random",
		"MAC address; give one to get the same lease every time",
		one(parseMAC, func(d *draft) *net.HardwareAddr { return &d.Address.MAC })},
	{addressing, "hostname", "NAME", "",
		"name to tell the DHCP server",
		one(parseDomain, func(d *draft) *string { return &d.Address.Hostname })},
	{addressing, "client-id", "ID", "",
		"DHCP client identifier: text, or hex: and its bytes with the type first",
		one(parseClientID, func(d *draft) *ClientID { return &d.Address.ClientID })},
	{addressing, "dns", "ADDRESS", "",
		"name server inside the VPN, in place of the lease's",
		many(parseServer, func(d *draft) *[]netip.Addr { return &d.Address.DNS })},
	{addressing, "search", "DOMAIN", "",
		"domain that completes short names, in place of the lease's",
		many(parseDomain, func(d *draft) *[]string { return &d.Address.Search })},
	{addressing, "no-dhcp", "", "false",
		"no built-in DHCP; needs -address or -address6",
		one(parseBool, func(d *draft) *bool { return &d.Address.NoDHCP })},
	{addressing, "address", "ADDRESS/BITS", "",
		"static address, such as 10.0.0.5/24; needs -no-dhcp",
		one(parsePrefix, func(d *draft) *netip.Prefix { return &d.Address.Address })},
	{addressing, "gateway", "ADDRESS", "",
		"router for everything beyond -address; needs -no-dhcp",
		one(parseHostAddr, func(d *draft) *netip.Addr { return &d.Address.Gateway })},
	{addressing, "address6", "ADDRESS/BITS", "",
		"static IPv6 address, such as 2001:db8::5/64, in place of what routers announce and DHCPv6 lends",
		one(parsePrefix6, func(d *draft) *netip.Prefix { return &d.Address.Address6 })},
	{addressing, "gateway6", "ADDRESS", "",
		"router for everything beyond -address6",
		one(parseHostAddr6, func(d *draft) *netip.Addr { return &d.Address.Gateway6 })},
	{addressing, "no-ipv6", "", "false",
		"no IPv6, though routers of the VPN offer it",
		one(parseBool, func(d *draft) *bool { return &d.Address.NoIPv6 })},
}
