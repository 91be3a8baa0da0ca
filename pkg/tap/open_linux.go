package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunFile is where the kernel hands out TAP interfaces.
const tunFile = "/dev/net/tun"

// Open makes the interface, with its link down, in the network namespace of the
// calling thread.
func Open(cfg Config) (*Device, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, nameError("", err)
	}
	d, err := open(cfg)
	if err != nil {
		return nil, nameError(cfg.Name, err)
	}
	d.log = cfg.Log
	d.log.Info("interface made", "interface", d.name, "index", d.index, "mac", d.mac.String(), "mtu", cfg.MTU,
		"offload", d.offload)
	return d, nil
}

// open makes the interface with virtio headers, and without where the kernel, or what
// stands in for one, refuses them.
func open(cfg Config) (*Device, error) {
	d, err := openOnce(cfg)
	if !cfg.Plain && errors.Is(err, errHeaders) {
		cfg.Plain = true
		d, err = openOnce(cfg)
	}
	return d, err
}

func openOnce(cfg Config) (*Device, error) {
	fd, err := unix.Open(tunFile, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explainOpen(err)
	}
	d, err := attach(fd, cfg)
	if err != nil {
		unix.Close(fd) // removes the interface if there is one already
		return nil, err
	}
	// Last, as the poller takes the file only once it has an interface.
	d.file = os.NewFile(uintptr(fd), tunFile)
	if err = d.file.SetReadDeadline(time.Time{}); err == nil {
		d.conn, err = d.file.SyscallConn()
	}
	if err != nil {
		d.file.Close()
		return nil, fmt.Errorf("wait for frames: %w", err)
	}
	return d, nil
}

// attach makes the interface and gives it its properties.
func attach(fd int, cfg Config) (*Device, error) {
	ctl, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for settings: %w", err)
	}
	defer unix.Close(ctl)
	name, err := create(fd, ctl, cfg)
	if err != nil {
		return nil, err
	}
	d := newDevice()
	d.name, d.coalescer.Thin = name, cfg.ThinAcks
	if !cfg.Plain {
		if err := d.negotiateReading(fd); err != nil {
			return nil, err
		}
	}
	if d.mac, err = pinMAC(fd, cfg.MAC); err != nil {
		return nil, err
	}
	if d.index, err = setMTU(ctl, name, cfg.MTU); err != nil {
		return nil, err
	}
	if d.headers {
		d.probeWriting(fd)
	}
	return d, nil
}

// create makes the interface and returns its name.
func create(fd, ctl int, cfg Config) (string, error) {
	ifr, err := unix.NewIfreq(cfg.Name)
	if err != nil {
		return "", fmt.Errorf("name %q: %w", cfg.Name, err)
	}
	// Exclusively: a TAP that exists already belongs to somebody, with settings that
	// are not ours to change and that would outlast us.
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if !cfg.Plain {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	if err == unix.EINVAL && !cfg.Plain {
		return "", fmt.Errorf("%w: %w", errHeaders, err)
	}
	if err != nil {
		return "", explainCreate(err, ctl, cfg.Name)
	}
	return ifr.Name(), nil
}

// pinMAC gives the interface the address mac, or the one it has already. Said
// explicitly, an address is kept by programs that otherwise give a new interface
// one of their own, as systemd-udevd does by default.
func pinMAC(fd int, mac net.HardwareAddr) (net.HardwareAddr, error) {
	if mac == nil {
		var err error
		if mac, err = hardwareAddr(fd); err != nil {
			return nil, fmt.Errorf("get MAC address: %w", err)
		}
	}
	ifr := ifreqAddr{family: unix.ARPHRD_ETHER}
	copy(ifr.addr[:], mac)
	if err := ifr.ioctl(fd, unix.SIOCSIFHWADDR); err != nil {
		return nil, fmt.Errorf("set MAC address %v: %w", mac, err)
	}
	return append(net.HardwareAddr(nil), mac...), nil
}

func hardwareAddr(fd int) (net.HardwareAddr, error) {
	var ifr ifreqAddr
	if err := ifr.ioctl(fd, unix.SIOCGIFHWADDR); err != nil {
		return nil, err
	}
	return append(net.HardwareAddr(nil), ifr.addr[:6]...), nil
}

// An ifreqAddr is the kernel's struct ifreq holding a hardware address, for which
// package unix has no accessor. It is as long as on 64-bit systems; on others the
// kernel does not look at the end.
type ifreqAddr struct {
	_      [unix.IFNAMSIZ]byte // the file says which interface, whatever its name is now
	family uint16
	addr   [14]byte
	_      [8]byte
}

// ioctl passes ifr to the driver by the file of the interface.
func (ifr *ifreqAddr) ioctl(fd int, request uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(ifr)))
	if errno != 0 {
		return errno
	}
	return nil
}

// setMTU sets the MTU and returns the interface's index.
func setMTU(ctl int, name string, mtu int) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint32(uint32(mtu))
	if err := unix.IoctlIfreq(ctl, unix.SIOCSIFMTU, ifr); err != nil {
		return 0, fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	if err := unix.IoctlIfreq(ctl, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("get index: %w", err)
	}
	return int(ifr.Uint32()), nil
}

const otherMode = "the proxy mode needs none of this: -socks5 127.0.0.1:1080 or -http 127.0.0.1:8080"

// explainOpen says what to do about a tunFile that does not open.
func explainOpen(err error) error {
	var remedy string
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		remedy = "load the kernel's driver (modprobe tun), in a container give it the device (--device " + tunFile + ")"
	case errors.Is(err, unix.ENOTTY): // said by the first request to it
		remedy = "that is the file of another device: make it anew (mknod " + tunFile + " c 10 200), in a container give it " +
			"the host's (--device " + tunFile + ")"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		remedy = "run as root, in a container with --cap-add NET_ADMIN --device " + tunFile
	default:
		return fmt.Errorf("open %s: %w", tunFile, err)
	}
	return fmt.Errorf("open %s: %w; %s; %s", tunFile, err, remedy, otherMode)
}

// explainCreate says what to do about an interface that cannot be made.
func explainCreate(err error, ctl int, name string) error {
	switch {
	case errors.Is(err, unix.ENOTTY):
		return explainOpen(err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("make the interface: %w; this takes the capability CAP_NET_ADMIN: run as root, "+
			"in a container with --cap-add NET_ADMIN --device %s; %s", err, tunFile, otherMode)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("make the interface: %w; %s; choose another name", err, whoHas(ctl, name))
	}
	return fmt.Errorf("make the interface: %w", err)
}

// whoHas describes the interface that has the name already.
func whoHas(ctl int, name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(ctl, name)
	if err != nil {
		return "an interface of that name exists"
	}
	switch driver := unix.ByteSliceToString(info.Driver[:]); driver {
	case "":
		return "an interface of that name exists"
	case "tun":
		return "a TAP or TUN of that name exists: another program has it, or it was made to stay " +
			"(then it can be removed: ip link delete " + name + ")"
	default:
		return "an interface of that name exists, of the kind " + driver
	}
}
