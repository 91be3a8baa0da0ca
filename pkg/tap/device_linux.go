package tap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
	"softether-go/pkg/pace"
)

const (
	// batchBytes is how much Run gathers to hand it over at once: six full TLS records,
	// enough that the cost per batch vanishes. More would only make the first frame of a
	// batch wait longer. The frames of the super-frame that completes a batch all belong
	// to it. Of small frames batchFrames are as good.
	batchBytes  = 64 * 1514
	batchFrames = 200

	// readLen is the room for one read: a virtio header, an Ethernet header with two
	// tags, and the largest packet, of 65535 bytes behind an IPv6 header. The kernel
	// cuts off what does not fit without a word, so what fills the room is too long.
	readLen = offload.VirtioLen + frame.HeaderLen + 8 + 40 + 65535 + 1

	// maxCut bounds what one super-frame becomes, and with it memory. Linux puts at
	// most 1820 segments into 64 KiB: it keeps the MSS at 48 (tcp_min_snd_mss), of
	// which 12 may be options.
	maxCut = 2048

	// maxIOV is how many pieces one write takes (UIO_MAXIOV).
	maxIOV = 1024
)

// A Device is a TAP interface. Its methods may be called from several goroutines,
// except that there is one Run at a time.
type Device struct {
	name  string
	index int
	mac   net.HardwareAddr // as set by Open
	log   *slog.Logger
	file  *os.File
	conn  syscall.RawConn // file's
	ended atomic.Bool     // Close has begun

	headers bool    // a virtio header precedes what is read and written
	offload Offload // nothing without headers

	reading sync.Mutex // held by Run; guards what follows
	scratch []byte     // for one read
	arena   []byte     // the bytes of the batch
	batch   [][]byte   // the frames in the arena
	readEnd error      // why readBatch stopped for good
	onRead  func(fd uintptr) bool
	pacer   pacer

	writing   sync.Mutex // held by WriteFrames; guards what follows
	coalescer offload.Coalescer
	pending   [][]byte                // what to write, lent by the caller
	header    [offload.VirtioLen]byte // of what is being written
	iov       []unix.Iovec            // what is being written
	fd        int                     // where to
	done      written                 // what was written of the batch
	writeEnd  error                   // why nothing can be written any more
	onWrite   func(fd uintptr) bool
	emit      func(offload.Super)

	stats counters
}

type counters struct {
	inFrames, inBytes, inBatches, inSupers, inSegments, inThinned atomic.Uint64
	inMalformed, inLinkDown, inNoBuffer, inRefused                atomic.Uint64

	outFrames, outBytes, outBatches, outSupers, outSegments atomic.Uint64
	outMalformed, outUncut                                  atomic.Uint64
}

// A written is the part of a batch that the kernel took.
type written struct{ frames, bytes, supers, segments, thinned uint64 }

// newDevice returns a Device with its buffers.
func newDevice() *Device {
	d := &Device{}
	d.scratch = make([]byte, readLen)
	d.arena = make([]byte, 0, batchBytes+readLen) // what a full batch usually needs
	d.batch = make([][]byte, 0, 2*batchFrames)
	d.iov = make([]unix.Iovec, 0, maxIOV)
	// Made once: a method value made for each batch would be allocated each time.
	d.onRead, d.onWrite, d.emit = d.readBatch, d.writeBatch, d.write
	return d
}

// Name returns the interface's name at the time of Open.
func (d *Device) Name() string { return d.name }

// Index returns the interface's index, which outlasts a change of its name.
func (d *Device) Index() int { return d.index }

// MAC returns the interface's present address, or after Close the one it began with.
func (d *Device) MAC() net.HardwareAddr {
	mac, err := net.HardwareAddr(nil), error(nil)
	if d.conn.Control(func(fd uintptr) { mac, err = hardwareAddr(int(fd)) }) != nil || err != nil {
		return append(net.HardwareAddr(nil), d.mac...)
	}
	return mac
}

// Offload returns what Open found that the kernel can do.
func (d *Device) Offload() Offload { return d.offload }

// Stats returns the counters so far.
func (d *Device) Stats() Stats {
	c := &d.stats
	return Stats{
		InFrames: c.inFrames.Load(), InBytes: c.inBytes.Load(), InBatches: c.inBatches.Load(),
		InSupers: c.inSupers.Load(), InSegments: c.inSegments.Load(), InThinned: c.inThinned.Load(),
		InMalformed: c.inMalformed.Load(), InLinkDown: c.inLinkDown.Load(),
		InNoBuffer: c.inNoBuffer.Load(), InRefused: c.inRefused.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(), OutBatches: c.outBatches.Load(),
		OutSupers: c.outSupers.Load(), OutSegments: c.outSegments.Load(),
		OutMalformed: c.outMalformed.Load(), OutUncut: c.outUncut.Load(),
	}
}

// Run hands what the host sends to dst, until ctx ends, the device is closed or
// gone, or dst fails; see frame.Endpoint. It may be called again. While dst blocks,
// the kernel queues and finally drops what the host sends.
func (d *Device) Run(ctx context.Context, dst frame.Writer) error {
	if !d.reading.TryLock() {
		return nameError(d.name, errors.New("run: another Run is reading already"))
	}
	defer d.reading.Unlock()
	if d.ended.Load() {
		return net.ErrClosed
	}
	d.setReadDeadline(time.Time{}) // the one that stopped an earlier Run
	stopped := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		d.setReadDeadline(time.Unix(1, 0))
		close(stopped)
	})
	defer func() {
		if !release() {
			<-stopped // else it might stop the next Run
		}
	}()
	for {
		if d.pacer.due() {
			pace.Rest()
		}
		err := d.conn.Read(d.onRead)
		if len(d.batch) > 0 {
			if err := dst.WriteFrames(d.batch); err != nil {
				return err
			}
		}
		switch {
		case d.ended.Load():
			return net.ErrClosed
		case err != nil && ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err()
		case err != nil: // the poller's word for an interface that is being removed
			return d.end(fmt.Errorf("%w (%w)", ErrGone, err))
		case d.readEnd != nil:
			return d.end(d.readEnd)
		}
	}
}

// setReadDeadline cannot fail but on a closed file, which reading then tells.
func (d *Device) setReadDeadline(t time.Time) { _ = d.file.SetReadDeadline(t) }

// end names the interface in the error that ends it.
func (d *Device) end(err error) error { return nameError(d.name, err) }

// readBatch fills the batch until the queue is empty or the batch is full. It returns
// false if there was nothing to read, for the poller to wait and call it again.
func (d *Device) readBatch(fd uintptr) bool {
	d.arena, d.batch, d.readEnd = d.arena[:0], d.batch[:0], nil
	reads := 0
	for ; len(d.batch) < batchFrames && len(d.arena) < batchBytes; reads++ {
		n, err := call(unix.SYS_READ, fd, unsafe.Pointer(&d.scratch[0]), readLen)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			d.readEnd = ended("read", err)
			break
		}
		d.take(d.scratch[:n])
	}
	d.pacer.count(reads, time.Now())
	if len(d.batch) > 0 {
		bytes := 0
		for _, f := range d.batch {
			bytes += len(f)
		}
		d.stats.outFrames.Add(uint64(len(d.batch)))
		d.stats.outBytes.Add(uint64(bytes))
		d.stats.outBatches.Add(1)
	}
	return len(d.batch) > 0 || d.readEnd != nil
}

// take appends to the batch the frames of b, which is what one read returned.
func (d *Device) take(b []byte) {
	if len(b) == readLen {
		d.stats.outMalformed.Add(1) // it was longer and has been cut off
		return
	}
	s, err := offload.Super{Header: b}, error(nil)
	if d.headers {
		s.Meta, s.Header, err = describe(b)
	}
	before := len(d.batch)
	if err == nil {
		d.arena, d.batch, err = offload.Split(d.arena, d.batch, s)
	}
	if err != nil {
		d.stats.outUncut.Add(1)
		return
	}
	if s.GSO != offload.Plain {
		d.stats.outSupers.Add(1)
		d.stats.outSegments.Add(uint64(len(d.batch) - before))
	}
	d.dropMisfits(before)
}

var errUncut = errors.New("a frame that is not what its virtio header says")

// describe takes the virtio header from the front of b.
func describe(b []byte) (offload.Meta, []byte, error) {
	if len(b) < offload.VirtioLen {
		return offload.Meta{}, nil, errUncut
	}
	m, err := offload.ParseVirtio(b)
	b = b[offload.VirtioLen:]
	if m.GSO != offload.Plain && len(b) > m.Size*maxCut {
		err = errUncut
	}
	return m, b, err
}

// dropMisfits takes frames of impossible length out of the batch, from an index on.
func (d *Device) dropMisfits(from int) {
	kept := d.batch[:from]
	for _, f := range d.batch[from:] {
		if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
			d.stats.outMalformed.Add(1)
			continue
		}
		kept = append(kept, f)
	}
	d.batch = kept
}

// ended says what it means that the file cannot be read or written any more.
func ended(op string, err error) error {
	if err == unix.EBADFD {
		return fmt.Errorf("%w (%s: %w)", ErrGone, op, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// WriteFrames hands frames to the host. It never waits: a frame that the kernel does
// not take at once is dropped and counted. An error means that the device is closed
// or gone.
func (d *Device) WriteFrames(frames [][]byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.pending = frames
	err := d.conn.Write(d.onWrite)
	d.pending = nil // lent
	switch {
	case err != nil && d.ended.Load():
		return net.ErrClosed
	case err != nil:
		return d.end(fmt.Errorf("write: %w", err))
	case d.writeEnd != nil:
		return d.end(d.writeEnd)
	}
	return nil
}

// writeBatch writes the pending frames, and those that follow each other in a flow as
// one, by one system call each: the kernel takes one frame or super-frame per call.
// It always returns true, as waiting for room would hold up the tunnel for the sake
// of one interface.
func (d *Device) writeBatch(fd uintptr) bool {
	d.fd, d.done = int(fd), written{}
	for _, f := range d.pending {
		switch {
		case len(f) < frame.HeaderLen || len(f) > frame.MaxLen:
			d.stats.inMalformed.Add(1)
		case d.offload.InTCP:
			d.coalescer.Push(f)
		default:
			d.write(offload.Super{Header: f})
		}
	}
	d.coalescer.Flush(d.emit)
	if d.done.frames > 0 {
		d.stats.inFrames.Add(d.done.frames)
		d.stats.inBytes.Add(d.done.bytes)
		d.stats.inSupers.Add(d.done.supers)
		d.stats.inSegments.Add(d.done.segments)
		d.stats.inThinned.Add(d.done.thinned)
		d.stats.inBatches.Add(1)
	}
	return true
}

// write writes s and counts what becomes of it.
func (d *Device) write(s offload.Super) {
	if d.writeEnd != nil {
		return
	}
	frames := uint64(s.Frames())
	switch err := d.send(d.fd, &s); err {
	case nil:
		d.done.frames += frames
		d.done.thinned += uint64(s.Thinned)
		d.done.bytes += uint64(s.Len()) + (frames-1)*uint64(s.HdrLen)
		if frames > 1 {
			d.done.supers++
			d.done.segments += frames
		}
	case unix.EIO: // the kernel's answer while the link is down
		d.stats.inLinkDown.Add(frames)
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		d.stats.inNoBuffer.Add(frames)
	case unix.EBADFD, unix.EBADF:
		d.writeEnd = ended("write", err)
	default:
		d.stats.inRefused.Add(frames)
	}
}

// send gives s to the kernel, piece by piece where it lies.
func (d *Device) send(fd int, s *offload.Super) error {
	d.iov = d.iov[:0]
	if d.headers {
		s.PutVirtio(d.header[:])
		d.addPiece(d.header[:])
	}
	d.addPiece(s.Header)
	for _, p := range s.Payload {
		d.addPiece(p)
	}
	defer clear(d.iov) // lent
	for {
		_, err := call(unix.SYS_WRITEV, uintptr(fd), unsafe.Pointer(&d.iov[0]), len(d.iov))
		if err != unix.EINTR {
			return err
		}
	}
}

// call makes a system call with three arguments. It does not tell the scheduler, which
// would make ready for a long wait each time: the file never makes anybody wait, and
// what the kernel does for a super-frame takes it some ten microseconds.
func call(number, fd uintptr, p unsafe.Pointer, n int) (int, error) {
	r, _, errno := unix.RawSyscall(number, fd, uintptr(p), uintptr(n))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// addPiece appends to what is being written.
func (d *Device) addPiece(b []byte) {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	d.iov = append(d.iov, v)
}

// Close removes the interface and ends Run. When it returns the interface no longer
// exists. A second Close does nothing.
func (d *Device) Close() error {
	if d.ended.Swap(true) {
		return nil
	}
	if err := d.file.Close(); err != nil {
		return d.end(fmt.Errorf("close: %w", err))
	}
	d.log.Info("interface removed", "interface", d.name)
	return nil
}

var _ frame.Endpoint = (*Device)(nil)
