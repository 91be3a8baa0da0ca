package underlay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// apply binds a socket to the interface and marks what it sends. (socket(7))
func (b Bind) apply(fd int) error {
	if b.Interface != "" {
		err := unix.BindToDevice(fd, b.Interface)
		switch {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("connect by the interface %s: it takes CAP_NET_RAW, or Linux 5.7: run as root (%w)", b.Interface, err)
		case errors.Is(err, unix.ENODEV):
			return fmt.Errorf("connect by the interface %s: there is none of this name (%w)", b.Interface, err)
		case err != nil:
			return fmt.Errorf("connect by the interface %s: %w", b.Interface, err)
		}
	}
	if b.Mark != 0 {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(b.Mark))
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("mark packets with %#x: it takes CAP_NET_ADMIN: run as root (%w)", b.Mark, err)
		}
		if err != nil {
			return fmt.Errorf("mark packets with %#x: %w", b.Mark, err)
		}
	}
	return nil
}

// check applies b to a socket that goes nowhere.
func (b Bind) check() error {
	if b.Interface == "" && b.Mark == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	return b.apply(fd)
}
