package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// The forms of a listener's address that are no address and port.
const (
	unixForm    = "unix:"    // and a path, or @ and a name
	fdForm      = "fd:"      // and the number of a socket that is open already
	systemdForm = "systemd:" // and the name of sockets that systemd passes, or nothing for all
)

// maxUnixPath is what fits into sun_path everywhere: 104 bytes on the BSDs, 108 on Linux,
// with a NUL at the end.
const maxUnixPath = 103

// parseUnix takes a path, or @ and a name.
func parseUnix(path string) (string, error) {
	switch {
	case path == "" || path == "@":
		return "", errors.New("unix: wants a path, or @ and a name, behind it")
	case len(path) > maxUnixPath:
		return "", fmt.Errorf("%s is longer than the %d bytes that the path of a Unix socket has", quote(path), maxUnixPath)
	}
	return parsePath(path)
}

// parseProxyListen takes where a proxy listens: what parseListen does, a Unix socket, or a
// socket that is open already.
func parseProxyListen(s string) (string, error) {
	form, rest, _ := strings.Cut(s, ":")
	switch form + ":" {
	case unixForm:
		path, err := parseUnix(rest)
		return unixForm + path, err
	case fdForm:
		const first = 3 // after standard input, output and error
		if n, err := strconv.ParseUint(rest, 10, 16); err != nil || n < first {
			return "", fmt.Errorf("%s is not the number of a descriptor that is passed: give one like fd:3", quote(s))
		}
	case systemdForm:
		if strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) || len(rest) > 255 {
			return "", fmt.Errorf("%s is not a name that a socket unit can give (FileDescriptorName=)", quote(rest))
		}
	default:
		if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "@") {
			return "", fmt.Errorf("%s is not an address and a port: for a Unix socket give %s", quote(s), quote(unixForm+s))
		}
		if _, err := strconv.ParseUint(s, 10, 16); err == nil { // a port alone, as -L takes it
			s = "127.0.0.1:" + s
		}
		return parseListen(s)
	}
	return s, nil
}

// hasPort reports whether a listener is one that parseListen takes. Who may connect to the
// others is the file system's or the service manager's to say.
func hasPort(listen string) bool {
	for _, form := range []string{unixForm, fdForm, systemdForm} {
		if strings.HasPrefix(listen, form) {
			return false
		}
	}
	return true
}

// A SocketMode is the permissions of a Unix socket.
type SocketMode fs.FileMode

// String writes them as they are read.
func (m SocketMode) String() string { return fmt.Sprintf("%#o", uint32(m)) }

func parseSocketMode(s string) (SocketMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 || n&0o600 != 0o600 {
		return 0, fmt.Errorf("%s are not permissions that let us in: give octal digits such as 0600 or 0660", quote(s))
	}
	return SocketMode(n), nil
}
