package relay

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

const (
	// largeBuffer is what a kernel socket hands over at once under load, and
	// what one super-segment of the stack holds.
	largeBuffer = 64 << 10
	// smallBuffer is what an idle direction waits with; more than most keystrokes
	// and messages, and 32 of them are one large one.
	smallBuffer = 2 << 10
)

// Buffers lends large buffers to directions while bytes flow. The zero value is ready;
// relays share one.
type Buffers struct {
	pool sync.Pool // of *[largeBuffer]byte
	lent atomic.Int64
}

func (b *Buffers) take() *[largeBuffer]byte {
	b.lent.Add(1)
	if p, ok := b.pool.Get().(*[largeBuffer]byte); ok {
		return p
	}
	return new([largeBuffer]byte)
}

func (b *Buffers) give(p *[largeBuffer]byte) {
	if p != nil {
		b.lent.Add(-1)
		b.pool.Put(p)
	}
}

// Lent returns how many are lent now.
func (b *Buffers) Lent() int64 { return b.lent.Load() }

// Get and Put make Buffers an httputil.BufferPool.
func (b *Buffers) Get() []byte { return b.take()[:] }

// Put takes back what Get gave.
func (b *Buffers) Put(p []byte) { b.give((*[largeBuffer]byte)(p)) }

// copy moves bytes of f until its source ends or something fails, by whichever
// side knows a better way than reading and writing, which is the stack in the
// tunnel. It returns the bytes moved by this call.
func (b *Buffers) copy(f *flow) (n int64, err error) {
	if w, ok := f.src.(io.WriterTo); ok && !inKernel(f.src) {
		n, err = w.WriteTo(f.dst)
		f.count.Add(uint64(n))
		return n, err
	}
	if r, ok := f.dst.(io.ReaderFrom); ok && !inKernel(f.dst) {
		n, err = r.ReadFrom(f.src)
		f.count.Add(uint64(n))
		return n, err
	}
	return b.pump(f)
}

// inKernel reports whether c is the kernel's. Those have WriteTo and ReadFrom
// too, which fall back on io.Copy with a buffer of its own for each connection.
func inKernel(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// pump reads and writes: with a small buffer of its own while little comes, with a
// lent one as long as each read fills the buffer it was given.
func (b *Buffers) pump(f *flow) (total int64, err error) {
	small := make([]byte, smallBuffer)
	buf := small
	var large *[largeBuffer]byte
	defer func() { b.give(large) }()
	for {
		n, rerr := f.src.Read(buf)
		if n > 0 {
			w, err := f.dst.Write(buf[:n])
			total += int64(w)
			f.count.Add(uint64(w))
			if err != nil {
				return total, err
			}
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
		switch {
		case n < len(buf) && large != nil:
			b.give(large)
			buf, large = small, nil
		case n == len(buf) && large == nil:
			large = b.take()
			buf = large[:]
		}
	}
}
