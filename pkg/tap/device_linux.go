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

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
)

const (
	// batchFrames is how many frames Run hands over at once: 64 × 1514 B ≈ 97 kB, six
	// full TLS records, enough that the cost per batch vanishes. More would only
	// make the first frame of a batch wait longer.
	batchFrames = 64

	// slotLen is the room for one frame. It exceeds frame.MaxLen because the kernel
	// cuts off what does not fit without a word: a frame that is longer than
	// MaxLen has to show. 26 cache lines.
	slotLen = 1664
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

	reading sync.Mutex // held by Run; guards what follows
	arena   []byte     // batchFrames slots
	batch   [][]byte   // views of the slots filled by readBatch
	readEnd error      // why readBatch stopped for good
	onRead  func(fd uintptr) bool

	writing  sync.Mutex // held by WriteFrames; guards what follows
	pending  [][]byte   // what to write, lent by the caller
	writeEnd error      // why nothing can be written any more
	onWrite  func(fd uintptr) bool

	stats counters
}

type counters struct {
	inFrames, inBytes, inBatches                   atomic.Uint64
	inMalformed, inLinkDown, inNoBuffer, inRefused atomic.Uint64

	outFrames, outBytes, outBatches, outMalformed atomic.Uint64
}

// newDevice returns a Device with its buffers.
func newDevice() *Device {
	d := &Device{}
	d.arena = make([]byte, batchFrames*slotLen)
	d.batch = make([][]byte, 0, batchFrames)
	// Made once: a method value made for each batch would be allocated each time.
	d.onRead, d.onWrite = d.readBatch, d.writeBatch
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

// Stats returns the counters so far.
func (d *Device) Stats() Stats {
	c := &d.stats
	return Stats{
		InFrames: c.inFrames.Load(), InBytes: c.inBytes.Load(), InBatches: c.inBatches.Load(),
		InMalformed: c.inMalformed.Load(), InLinkDown: c.inLinkDown.Load(),
		InNoBuffer: c.inNoBuffer.Load(), InRefused: c.inRefused.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(), OutBatches: c.outBatches.Load(),
		OutMalformed: c.outMalformed.Load(),
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
		d.batch, d.readEnd = d.batch[:0], nil
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
	var bytes, malformed uint64
	for len(d.batch) < batchFrames {
		slot := d.arena[len(d.batch)*slotLen:][:slotLen:slotLen]
		n, err := unix.Read(int(fd), slot)
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
		if n < frame.HeaderLen || n > frame.MaxLen {
			malformed++
			continue
		}
		d.batch = append(d.batch, slot[:n:n])
		bytes += uint64(n)
	}
	if malformed > 0 {
		d.stats.outMalformed.Add(malformed)
	}
	if len(d.batch) > 0 {
		d.stats.outFrames.Add(uint64(len(d.batch)))
		d.stats.outBytes.Add(bytes)
		d.stats.outBatches.Add(1)
	}
	return len(d.batch) > 0 || d.readEnd != nil
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

// writeBatch writes the pending frames, each by one system call: the kernel takes
// one per call. It always returns true, as waiting for room would hold up the
// tunnel for the sake of one interface.
func (d *Device) writeBatch(fd uintptr) bool {
	var done, bytes uint64
	for _, f := range d.pending {
		if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
			d.stats.inMalformed.Add(1)
			continue
		}
		switch err := writeFrame(int(fd), f); err {
		case nil:
			done++
			bytes += uint64(len(f))
		case unix.EIO: // the kernel's answer while the link is down
			d.stats.inLinkDown.Add(1)
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			d.stats.inNoBuffer.Add(1)
		case unix.EBADFD, unix.EBADF:
			d.writeEnd = ended("write", err)
			return true
		default:
			d.stats.inRefused.Add(1)
		}
	}
	if done > 0 {
		d.stats.inFrames.Add(done)
		d.stats.inBytes.Add(bytes)
		d.stats.inBatches.Add(1)
	}
	return true
}

func writeFrame(fd int, f []byte) error {
	for {
		if _, err := unix.Write(fd, f); err != unix.EINTR {
			return err
		}
	}
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
