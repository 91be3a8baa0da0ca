package tlsconn

import (
	"encoding/binary"
	"io"
	"net"
)

// recordHeader is the length of a TLS record's header: type, version, length.
const recordHeader = 5

// Records wraps a connection on which TLS is to end one day: TLS over it reads no byte
// beyond the record it needs, so that afterwards raw is where the peer goes on without.
// It costs system calls. One Read may be under way at a time.
func Records(raw net.Conn) net.Conn { return &records{Conn: raw} }

type records struct {
	net.Conn
	header [recordHeader]byte
	have   int // of the header
	body   int // what is left of the record
}

func (r *records) Read(b []byte) (int, error) {
	if r.body == 0 {
		return r.readHeader(b)
	}
	n, err := r.Conn.Read(b[:min(len(b), r.body)])
	r.body -= n
	return n, err
}

// readHeader reads at most what is missing of the header.
func (r *records) readHeader(b []byte) (int, error) {
	n, err := r.Conn.Read(b[:min(len(b), recordHeader-r.have)])
	r.have += copy(r.header[r.have:], b[:n])
	if r.have == recordHeader {
		r.have, r.body = 0, int(binary.BigEndian.Uint16(r.header[3:]))
	}
	return n, err
}

var _ io.Reader = (*records)(nil)
