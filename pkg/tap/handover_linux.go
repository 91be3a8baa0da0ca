package tap

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Handover is what the process that made an interface tells the one that is to
// exchange its frames. It is data, for a message beside the descriptor.
type Handover struct {
	Name    string
	Index   int // in the interface's own network namespace
	MAC     net.HardwareAddr
	Headers bool    // a virtio header precedes what is read and written
	Offload Offload // as the maker found it
}

// Handover returns a second descriptor of the interface and what Adopt wants to know.
// Who made the interface closes its Device once the descriptor is on its way: the
// interface lives as long as one of them. Frames are to be read by one of the two only.
func (d *Device) Handover() (*os.File, Handover, error) {
	fd, dupErr := -1, error(nil)
	err := d.conn.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return nil, Handover{}, nameError(d.name, fmt.Errorf("hand over: %w", err))
	}
	return os.NewFile(uintptr(fd), tunFile), Handover{d.name, d.index, d.mac, d.headers, d.offload}, nil
}

// Adopt makes a Device of an interface that another process opened, whichever network
// namespace that is in: neither privileges nor the device file are needed. The Device
// owns f from now on, also on an error. A nil log discards.
func Adopt(f *os.File, h Handover, log *slog.Logger) (*Device, error) {
	d := newDevice()
	d.name, d.index, d.mac, d.headers, d.offload = h.Name, h.Index, h.MAC, h.Headers, h.Offload
	d.coalescer.UDP, d.coalescer.Thin = h.Offload.InUDP, true
	d.file, d.log = f, Config{Log: log}.withDefaults().Log
	err := d.file.SetReadDeadline(time.Time{})
	if err == nil {
		d.conn, err = d.file.SyscallConn()
	}
	if err == nil {
		err = d.checkKind()
	}
	if err != nil {
		f.Close()
		return nil, nameError(h.Name, fmt.Errorf("adopt: %w", err))
	}
	return d, nil
}

// checkKind makes sure that the file is a TAP which was opened as the Handover says:
// a mistake there would garble every frame.
func (d *Device) checkKind() (err error) {
	ctlErr := d.conn.Control(func(fd uintptr) {
		var ifr *unix.Ifreq
		if ifr, err = unix.NewIfreq(""); err != nil {
			return
		}
		if err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr); err != nil {
			return
		}
		flags := ifr.Uint16()
		if flags&unix.IFF_TAP == 0 || (flags&unix.IFF_VNET_HDR != 0) != d.headers {
			err = fmt.Errorf("the descriptor is of another kind of interface (flags %#x)", flags)
		}
	})
	return errors.Join(ctlErr, err)
}
