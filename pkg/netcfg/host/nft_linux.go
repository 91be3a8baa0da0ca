package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errNoTables explains a kernel without nf_tables.
var errNoTables = errors.New("the kernel has no nf_tables: load it (modprobe nf_tables nft_ct) or build it in " +
	"(CONFIG_NF_TABLES_INET, CONFIG_NFT_CT)")

// explainNFT tells a kernel without nf_tables from other trouble.
func explainNFT(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: nftables needs root or CAP_NET_ADMIN", err)
	}
	for _, missing := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w (%w)", errNoTables, err)
		}
	}
	return err
}

// probeNFT reports why marks cannot be had on this host, nil if they can.
func probeNFT() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	if err != nil {
		return explainNFT(err)
	}
	return nil
}

// nftTable is the marker: one table whose owner is our socket, so that the kernel
// takes it away with us and lets nobody else change it. A kernel that knows no
// owners gets an ordinary table.
type nftTable struct {
	name  string
	conn  *nftables.Conn // nil while there is no table
	table *nftables.Table
}

// Set puts the marks in force in one transaction.
func (n *nftTable) Set(m marks) error {
	if m == (marks{TAP: m.TAP}) {
		return n.remove()
	}
	if n.conn == nil {
		if err := n.open(); err != nil {
			return err
		}
	}
	n.conn.FlushTable(n.table)
	n.fill(m)
	if m.Block {
		n.block(m)
	}
	if err := n.conn.Flush(); err != nil {
		return fmt.Errorf("nftables: fill table %s: %w", n.name, explainNFT(err))
	}
	return nil
}

// open makes the table.
func (n *nftTable) open() error {
	var socket *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		socket = c
		return nil
	}))
	if err != nil {
		return fmt.Errorf("nftables: %w", explainNFT(err))
	}
	table := &nftables.Table{Name: n.name, Family: nftables.TableFamilyINet}
	err = createTable(socket, n.name, ownerFlag)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = createTable(socket, n.name, 0)
	}
	if err != nil {
		conn.CloseLasting()
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM) {
			return fmt.Errorf("nftables: make table %s: %w: someone else has it", n.name, err)
		}
		return fmt.Errorf("nftables: make table %s: %w", n.name, explainNFT(err))
	}
	n.conn, n.table = conn, table
	return nil
}

// remove ends the table and its socket.
func (n *nftTable) remove() error {
	if n.conn == nil {
		return nil
	}
	n.conn.DelTable(n.table)
	err := n.conn.Flush()
	n.conn.CloseLasting()
	n.conn = nil
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// ownerFlag is NFT_TABLE_F_OWNER. The library's AddTable sends no flags.
const ownerFlag = 2

// createTable sends the one message that the library lacks: a new table with flags.
func createTable(c *netlink.Conn, name string, flags uint32) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flags)},
	})
	if err != nil {
		return err
	}
	header := func(family uint8, resource uint16) []byte { // struct nfgenmsg
		return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	}
	edge := func(t netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: t, Flags: netlink.Request},
			Data: header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)}
	}
	_, err = c.SendMessages([]netlink.Message{
		edge(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append(header(uint8(nftables.TableFamilyINet), 0), attrs...),
		},
		edge(unix.NFNL_MSG_BATCH_END),
	})
	if err == nil {
		_, err = c.Receive() // the acknowledgement, or the error
	}
	return err
}

// fill writes the chains. Both hooks are before routing, at the priority at which
// packets are commonly marked; conntrack has found the connection by then and DNAT
// has not changed the packet.
func (n *nftTable) fill(m marks) {
	pre := n.conn.AddChain(&nftables.Chain{Name: "prerouting", Table: n.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle})
	out := n.conn.AddChain(&nftables.Chain{Name: "output", Table: n.table, Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle})
	rule := func(c *nftables.Chain, parts ...[]expr.Any) {
		n.conn.AddRule(&nftables.Rule{Table: n.table, Chain: c, Exprs: join(parts)})
	}
	if m.Tunnel != 0 {
		rule(pre, from(m.TAP), direction(original), connMarkIs(0), setConnMark(m.Tunnel))
	}
	if m.Keep != 0 {
		others := notFrom("lo")
		for _, tap := range strings.Fields(m.Others) {
			others = append(others, notFrom(tap)...)
		}
		rule(pre, notFrom(m.TAP), others, direction(original), connMarkIs(0), setConnMark(m.Keep))
	}
	// A forwarded connection from before us, in which only the answering side says
	// anything: its packets come from an address that no rule is for.
	for _, own := range strings.Fields(m.Own) {
		rule(pre, notFrom(m.TAP), direction(reply), connMarkIs(0), originallyTo(own), setConnMark(m.Keep))
	}
	for _, mark := range []uint32{m.Tunnel, m.Keep} {
		if mark != 0 {
			rule(pre, notFrom(m.TAP), direction(reply), connMarkIs(mark), setMark(mark))
			rule(out, direction(reply), connMarkIs(mark), setMark(mark))
		}
	}
}

// originallyTo matches packets in connections that were made to an IPv4 address,
// wherever they have been sent on to.
func originallyTo(address string) []expr.Any {
	return append(protocolIs(unix.NFPROTO_IPV4),
		&expr.Ct{Key: expr.CtKeyDST, Direction: original, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netip.MustParseAddr(address).AsSlice()})
}

// block writes the chains that keep IPv6 from leaving beside the tunnel. Routes
// could not do it: to a kernel that finds none, any rule for a source address is
// reason to look again. Replies in connections from outside may leave.
func (n *nftTable) block(m marks) {
	for _, at := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"block-output", nftables.ChainHookOutput}, {"block-forward", nftables.ChainHookForward}} {
		chain := n.conn.AddChain(&nftables.Chain{Name: at.name, Table: n.table, Type: nftables.ChainTypeFilter,
			Hooknum: at.hook, Priority: nftables.ChainPriorityFilter})
		rule := func(parts ...[]expr.Any) {
			n.conn.AddRule(&nftables.Rule{Table: n.table, Chain: chain, Exprs: join(parts)})
		}
		rule(protocolIs(unix.NFPROTO_IPV4), accept())
		rule(to("lo"), accept())
		rule(to(m.TAP), accept())
		rule(direction(reply), accept())
		for _, p := range strings.Fields(m.Allow) {
			rule(destination6(netip.MustParsePrefix(p)), accept())
		}
		rule([]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_NO_ROUTE}})
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func protocolIs(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}},
	}
}

// destination6 matches IPv6 packets to a prefix. Only IPv6 ones come this far.
func destination6(p netip.Prefix) []expr.Any {
	const offset, size = 24, 16 // of the destination in an IPv6 header
	match := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
	if p.Bits() == 8*size {
		return append(protocolIs(unix.NFPROTO_IPV6), match...)
	}
	mask := &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size,
		Mask: net.CIDRMask(p.Bits(), 8*size), Xor: make([]byte, size)}
	return append(protocolIs(unix.NFPROTO_IPV6), match[0], mask, match[1])
}

func join(parts [][]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func from(name string) []expr.Any    { return ifName(expr.MetaKeyIIFNAME, expr.CmpOpEq, name) }
func notFrom(name string) []expr.Any { return ifName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, name) }
func to(name string) []expr.Any      { return ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq, name) }

func ifName(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: padded},
	}
}

// The directions of a packet in its connection: IP_CT_DIR_ORIGINAL and _REPLY.
const (
	original = 0
	reply    = 1
)

func direction(d byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{d}},
	}
}

// masked leaves the bits of and in register 1, and sets those of or.
func masked(and, or uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(and), Xor: binaryutil.NativeEndian.PutUint32(or)}
}

func connMarkIs(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		masked(markMask, 0),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)},
	}
}

func setConnMark(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		masked(^uint32(markMask), value),
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

func setMark(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		masked(^uint32(markMask), value),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// tableName names the table of an instance.
func tableName(tap string) string { return "softether-go-" + tap }

// dropTable removes a table that an instance left on a kernel without owners.
func dropTable(tap string) error {
	c, err := nftables.New()
	if err != nil {
		return nil // no nf_tables, no table
	}
	c.DelTable(&nftables.Table{Name: tableName(tap), Family: nftables.TableFamilyINet})
	err = c.Flush()
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(explainNFT(err), errNoTables) || errors.Is(err, os.ErrPermission) {
		return nil // EPERM: it has an owner, who lives
	}
	return fmt.Errorf("nftables: remove table %s: %w", tableName(tap), err)
}
