package tap

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenMakesTheInterfaceAsAsked(t *testing.T) {
	enterNamespace(t)
	mac := net.HardwareAddr{0x5e, 0, 0x53, 1, 2, 3}
	var log bytes.Buffer
	d := openTap(t, Config{Name: "vpn0", MAC: mac, MTU: 1400, Log: slog.New(slog.NewTextHandler(&log, nil))})
	i, err := net.InterfaceByName("vpn0")
	if err != nil {
		t.Fatal(err)
	}
	if i.HardwareAddr.String() != mac.String() || i.MTU != 1400 || i.Flags&net.FlagUp != 0 {
		t.Errorf("got MAC %v, MTU %d, %v, want %v, 1400 and not up", i.HardwareAddr, i.MTU, i.Flags, mac)
	}
	if d.Name() != "vpn0" || d.Index() != i.Index || d.MAC().String() != mac.String() {
		t.Errorf("got %s, index %d, %v, want vpn0, %d, %v", d.Name(), d.Index(), d.MAC(), i.Index, mac)
	}
	if want := `interface=vpn0`; !strings.Contains(log.String(), want) {
		t.Errorf("log: got %q, want it to say %s", log.String(), want)
	}
}

func TestOpenLeavesToTheKernelWhatIsNotAsked(t *testing.T) {
	enterNamespace(t)
	a, b := openTap(t, Config{}), openTap(t, Config{})
	if a.Name() != "tap0" || b.Name() != "tap1" {
		t.Errorf("names: got %s and %s, want tap0 and tap1", a.Name(), b.Name())
	}
	if got := mtu(t, "tap0"); got != 1500 {
		t.Errorf("MTU: got %d, want 1500", got)
	}
	if err := checkMAC(a.MAC()); err != nil || a.MAC().String() == b.MAC().String() {
		t.Errorf("MAC addresses: got %v and %v (%v), want two different good ones", a.MAC(), b.MAC(), err)
	}
}

func TestOpenTakesMTUsAtBothEndsOfTheRange(t *testing.T) {
	enterNamespace(t)
	for _, want := range []int{minMTU, 1280, 1586} {
		d := openTap(t, Config{Name: "vpn0", MTU: want})
		if got := mtu(t, "vpn0"); got != want {
			t.Errorf("MTU: got %d, want %d", got, want)
		}
		d.Close()
	}
}

func TestTakenNameIsRefusedAndSaysByWhat(t *testing.T) {
	const remedy = "; choose another name"
	for _, row := range []struct {
		name, want string
		take       func(t *testing.T)
	}{
		{"TAP of a running program", "a TAP or TUN of that name exists: another program has it", func(t *testing.T) {
			openTap(t, Config{Name: "vpn0"})
		}},
		{"TAP that was made to stay", "ip link delete vpn0", func(t *testing.T) {
			ip(t, "tuntap", "add", "vpn0", "mode", "tap")
		}},
		{"TUN", "a TAP or TUN of that name exists", func(t *testing.T) {
			ip(t, "tuntap", "add", "vpn0", "mode", "tun")
		}},
		{"interface of another kind", "an interface of that name exists, of the kind veth", func(t *testing.T) {
			ip(t, "link", "add", "vpn0", "type", "veth", "peer", "name", "other")
		}},
		{"second name of another interface", "an interface of that name exists", func(t *testing.T) {
			ip(t, "link", "add", "eth0", "type", "veth", "peer", "name", "other")
			ip(t, "link", "property", "add", "dev", "eth0", "altname", "vpn0")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			enterNamespace(t)
			row.take(t)
			before := interfaces(t)
			refused(t, Config{Name: "vpn0"}, "tap vpn0: make the interface: ", row.want, remedy)
			if got := interfaces(t); got != before {
				t.Errorf("interfaces: got %s, want %s as before", got, before)
			}
		})
	}
}

// refused opens a device, which must fail with one line that says all of parts.
func refused(t *testing.T, cfg Config, parts ...string) error {
	t.Helper()
	d, err := Open(cfg)
	if err == nil {
		d.Close()
		t.Fatal("got a device, want an error")
	}
	t.Log(err)
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %q, want it to say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("got several lines: %q", err)
	}
	return err
}

func TestMissingCapabilityIsExplained(t *testing.T) {
	enterNamespace(t)
	dropCapability(t, unix.CAP_NET_ADMIN)
	err := refused(t, Config{Name: "vpn0"}, "tap vpn0: make the interface: ", "CAP_NET_ADMIN",
		"run as root", "--cap-add NET_ADMIN", "-socks5 127.0.0.1:1080")
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want the cause in it", err)
	}
	if exists(t, "vpn0") {
		t.Error("an interface was left behind")
	}
}

// dropCapability takes a capability from the thread, which ends with the test.
func dropCapability(t *testing.T, capability uint) {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
}

func TestUnusableDeviceFileIsExplained(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T)
		cause error
		want  string
	}{
		{"missing", func(*testing.T) {}, unix.ENOENT, "modprobe tun"},
		{"without a driver behind it", func(t *testing.T) {
			makeNode(t, unix.Mkdev(10, 254), 0o666) // no driver has this minor number
		}, unix.ENODEV, "--device /dev/net/tun"},
		{"of another device", func(t *testing.T) {
			makeNode(t, unix.Mkdev(1, 3), 0o666) // that is /dev/null
		}, unix.ENOTTY, "mknod /dev/net/tun c 10 200"},
		{"without permission", func(t *testing.T) {
			makeNode(t, unix.Mkdev(10, 200), 0o600)
			becomeNobody(t)
		}, unix.EACCES, "run as root"},
	} {
		t.Run(row.name, func(t *testing.T) {
			enterNamespace(t)
			hideDevNet(t)
			row.spoil(t)
			err := refused(t, Config{}, "tap: open /dev/net/tun: ", row.want, "in a container", "-socks5 127.0.0.1:1080")
			if !errors.Is(err, row.cause) {
				t.Errorf("got %v, want the cause %v in it", err, row.cause)
			}
		})
	}
}

// hideDevNet covers /dev/net by an empty directory, for this thread only.
func hideDevNet(t *testing.T) {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("new mount namespace: %v", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("keep mounts private: %v", err)
	}
	if err := unix.Mount("none", filepath.Dir(tunFile), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
}

func makeNode(t *testing.T, device uint64, mode uint32) {
	t.Helper()
	if err := unix.Mknod(tunFile, unix.S_IFCHR|mode, int(device)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tunFile, os.FileMode(mode)); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

// becomeNobody takes from the thread root's rights on files.
func becomeNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	if err := unix.Setfsuid(nobody); err != nil {
		t.Fatal(err)
	}
}

func TestFailureHalfwayLeavesNoInterface(t *testing.T) {
	enterNamespace(t)
	fd, err := unix.Open(tunFile, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = attach(fd, Config{Name: "vpn0", MTU: 1 << 20}) // past check, for the kernel to refuse
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "set MTU 1048576") {
		t.Errorf("got %v, want the MTU refused", err)
	}
	if !exists(t, "vpn0") {
		t.Fatal("the step before did not make the interface")
	}
	unix.Close(fd)

	if _, err := open(Config{Name: "vpn0", MTU: 1 << 20}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("open: got %v, want the MTU refused", err)
	}
	if _, err := open(Config{Name: "vpn0", MTU: 1500, MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("open: got %v, want the MAC address refused", err)
	}
	if exists(t, "vpn0") {
		t.Error("an interface was left behind")
	}
}
