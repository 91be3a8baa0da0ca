// Package pack is the codec of SoftEther's Pack: named, typed arrays of values,
// in which every message before the data phase travels.
//
// # Layout
//
// All integers are big-endian.
//
//	pack    := u32 element_count, element*
//	element := u32 name_len+1, name, u32 type, u32 value_count, value*
//
// The name alone counts a NUL that is not sent. A text value counts exactly its
// bytes, a Unicode text counts one NUL that is sent. (Mayaqua/Pack.c, ReadPack,
// ReadElement, ReadValue and their Write twins.)
//
// # Reading
//
// A getter that finds no element of its name and type returns the zero value:
// that is how every version of the protocol treats fields it does not know or
// no longer sends. Names compare without regard to ASCII case. Decode never
// allocates more than a small multiple of its input.
package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Type is the wire type of an element's values.
type Type uint32

// The types of Mayaqua/Pack.h (VALUE_INT to VALUE_INT64).
const (
	Int Type = iota
	Data
	Str
	UniStr
	Int64
)

const (
	// maxName is the longest element name, in bytes (MAX_ELEMENT_NAME_LEN).
	maxName = 63
	// maxValues bounds the values of one element (MAX_VALUE_NUM of a 32-bit build).
	maxValues = 65536
	// maxElements bounds the elements of a pack. The largest message has about a
	// hundred; looking each name up in a list stays cheap at this size.
	maxElements = 4096
)

// An Element is a named array of values of one type: Numbers for Int and Int64,
// Bytes for the others.
type Element struct {
	Name    string
	Type    Type
	Numbers []uint64
	Bytes   [][]byte
}

// A Pack is a list of elements. The zero value is empty and ready. It is not safe
// for concurrent use while it is being built.
type Pack struct {
	elements []Element
}

var errShort = errors.New("ends too early")

// Decode reads a Pack. The result does not refer to b. Bytes after the last
// element are ignored, as the reference implementation does.
func Decode(b []byte) (*Pack, error) {
	d := decoder{rest: b}
	n := d.count(minElementLen, maxElements)
	p := &Pack{}
	for range n {
		e := d.element()
		if d.err == nil && p.Has(e.Name) {
			d.fail(fmt.Errorf("element %q occurs twice", e.Name))
		}
		if d.err != nil {
			break
		}
		p.elements = append(p.elements, e)
	}
	if d.err != nil {
		return nil, fmt.Errorf("pack: %w", d.err)
	}
	return p, nil
}

// minElementLen is an element with an empty name and no value.
const minElementLen = 12

type decoder struct {
	rest []byte
	err  error // the first failure; all later reads return zeros
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
		d.rest = nil
	}
}

func (d *decoder) bytes(n uint64) []byte {
	if uint64(len(d.rest)) < n {
		d.fail(errShort)
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// count reads a number, at most limit, of things that take at least size bytes
// each, so that a forged number cannot make us allocate for what is not there.
func (d *decoder) count(size int, limit uint32) int {
	n := d.u32()
	switch {
	case d.err != nil:
		return 0
	case n > limit:
		d.fail(fmt.Errorf("count %d is beyond %d", n, limit))
		return 0
	case int(n)*size > len(d.rest):
		d.fail(errShort)
		return 0
	}
	return int(n)
}

func (d *decoder) element() Element {
	nameLen := d.u32()
	if d.err == nil && (nameLen == 0 || nameLen > maxName+1) {
		d.fail(fmt.Errorf("element name length %d is not 1 to %d", nameLen, maxName+1))
		return Element{}
	}
	e := Element{Name: string(d.bytes(uint64(nameLen) - 1))}
	e.Type = Type(d.u32())
	if d.err == nil && e.Type > Int64 {
		d.fail(fmt.Errorf("element %q has unknown type %d", e.Name, e.Type))
		return e
	}
	for range d.count(4, maxValues) {
		d.value(&e)
	}
	return e
}

func (d *decoder) value(e *Element) {
	switch e.Type {
	case Int:
		e.Numbers = append(e.Numbers, uint64(d.u32()))
	case Int64:
		if b := d.bytes(8); b != nil {
			e.Numbers = append(e.Numbers, binary.BigEndian.Uint64(b))
		}
	case Data, Str, UniStr:
		b := d.bytes(uint64(d.u32()))
		if e.Type == UniStr {
			b = []byte(strings.TrimSuffix(string(b), "\x00"))
		}
		e.Bytes = append(e.Bytes, append([]byte(nil), b...))
	}
}

// Append appends the encoding of p to b and returns the result.
func (p *Pack) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.elements)))
	for i := range p.elements {
		b = p.elements[i].append(b)
	}
	return b
}

func (e *Element) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Name)+1))
	b = append(b, e.Name...)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Type))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Numbers)+len(e.Bytes)))
	for _, n := range e.Numbers {
		if e.Type == Int64 {
			b = binary.BigEndian.AppendUint64(b, n)
		} else {
			b = binary.BigEndian.AppendUint32(b, uint32(n))
		}
	}
	for _, v := range e.Bytes {
		nul := 0
		if e.Type == UniStr {
			nul = 1
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)+nul))
		b = append(b, v...)
		b = append(b, "\x00"[:nul]...)
	}
	return b
}

// Elements returns the elements in wire order, as a view for dumping and tests.
func (p *Pack) Elements() []Element { return p.elements }

func (p *Pack) find(name string) *Element {
	for i := range p.elements {
		if equalFold(p.elements[i].Name, name) {
			return &p.elements[i]
		}
	}
	return nil
}

// equalFold compares with ASCII case folding only: the protocol knows no other.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Has reports whether p has an element of that name, whatever its type.
func (p *Pack) Has(name string) bool { return p.find(name) != nil }

// Ints returns the values of an Int element.
func (p *Pack) Ints(name string) []uint32 {
	e := p.find(name)
	if e == nil || e.Type != Int {
		return nil
	}
	v := make([]uint32, len(e.Numbers))
	for i, n := range e.Numbers {
		v[i] = uint32(n)
	}
	return v
}

// Int returns the first value of an Int element.
func (p *Pack) Int(name string) uint32 {
	if e := p.find(name); e != nil && e.Type == Int && len(e.Numbers) > 0 {
		return uint32(e.Numbers[0])
	}
	return 0
}

// Bool reports whether the first value of an Int element is not 0.
func (p *Pack) Bool(name string) bool { return p.Int(name) != 0 }

// Data returns the first value of a Data element, not copied.
func (p *Pack) Data(name string) []byte { return p.bytesOf(name, Data) }

// Str returns the first value of a Str or UniStr element.
func (p *Pack) Str(name string) string {
	if b := p.bytesOf(name, Str); b != nil {
		return string(b)
	}
	return string(p.bytesOf(name, UniStr))
}

func (p *Pack) bytesOf(name string, t Type) []byte {
	if e := p.find(name); e != nil && e.Type == t && len(e.Bytes) > 0 {
		return e.Bytes[0]
	}
	return nil
}

// IP returns an address: an Int with the octets in reverse, or 16 bytes beside
// it when its @ipv6_bool is set. The zero address and an absent one are the zero
// Addr. (Mayaqua/Pack.c, PackGetIpEx)
func (p *Pack) IP(name string) netip.Addr {
	if p.Bool(name + "@ipv6_bool") {
		a, ok := netip.AddrFromSlice(p.Data(name + "@ipv6_array"))
		if !ok || a.IsUnspecified() {
			return netip.Addr{}
		}
		return a.Unmap()
	}
	n := p.Int(name)
	if n == 0 {
		return netip.Addr{}
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func (p *Pack) add(e Element) {
	if len(e.Name) > maxName {
		panic("pack: element name too long: " + e.Name) // ours: names are constants
	}
	if old := p.find(e.Name); old != nil {
		*old = e
		return
	}
	p.elements = append(p.elements, e)
}

// SetInt sets an Int element, replacing one of the same name.
func (p *Pack) SetInt(name string, values ...uint32) {
	e := Element{Name: name, Type: Int}
	for _, v := range values {
		e.Numbers = append(e.Numbers, uint64(v))
	}
	p.add(e)
}

// SetBool sets an Int element to 1 or 0.
func (p *Pack) SetBool(name string, v bool) {
	if v {
		p.SetInt(name, 1)
	} else {
		p.SetInt(name, 0)
	}
}

// SetInt64 sets an Int64 element.
func (p *Pack) SetInt64(name string, v uint64) {
	p.add(Element{Name: name, Type: Int64, Numbers: []uint64{v}})
}

// SetData sets a Data element. The bytes are kept, not copied.
func (p *Pack) SetData(name string, v []byte) {
	p.add(Element{Name: name, Type: Data, Bytes: [][]byte{v}})
}

// SetStr sets a Str element.
func (p *Pack) SetStr(name, v string) {
	p.add(Element{Name: name, Type: Str, Bytes: [][]byte{[]byte(v)}})
}

// SetUniStr sets a UniStr element.
func (p *Pack) SetUniStr(name, v string) {
	p.add(Element{Name: name, Type: UniStr, Bytes: [][]byte{[]byte(v)}})
}

// SetIP sets an address and its @ipv6 companions. An invalid address is written
// as 0. (Mayaqua/Pack.c, PackAddIpEx2)
func (p *Pack) SetIP(name string, a netip.Addr) {
	a = a.Unmap()
	var number uint32
	array := make([]byte, 16)
	switch {
	case a.Is4():
		b := a.As4()
		number = binary.LittleEndian.Uint32(b[:])
	case a.Is6():
		copy(array, a.AsSlice())
	}
	p.SetInt(name, number)
	p.SetBool(name+"@ipv6_bool", a.Is6())
	p.SetData(name+"@ipv6_array", array)
	p.SetInt(name+"@ipv6_scope_id", 0)
}
