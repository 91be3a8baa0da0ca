package privnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tunFile is where package tap makes interfaces.
const tunFile = "/dev/net/tun"

// ErrForbidden says that this host does not let us have namespaces, or what is needed in
// them. The text around it says why and what to do.
var ErrForbidden = errors.New("a network of its own cannot be made here")

// facts are what on a host decides about namespaces of ordinary users. A setting that
// the kernel does not have is -1.
type facts struct {
	usernsClone int // kernel.unprivileged_userns_clone, of Debian's kernels
	appArmor    int // kernel.apparmor_restrict_unprivileged_userns, of Ubuntu's
	maxUser     int // user.max_user_namespaces
	maxNet      int // user.max_net_namespaces
	maxMount    int // user.max_mnt_namespaces
	seccomp     bool
	container   bool
	weakRoot    bool // root that may not give itself to a namespace (user_namespaces(7))
}

// readFacts looks below root, which is / but in tests.
func readFacts(root string) facts {
	number := func(name string) int {
		text, err := os.ReadFile(filepath.Join(root, "proc/sys", name))
		n, bad := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || bad != nil {
			return -1
		}
		return n
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	}
	status, _ := os.ReadFile(filepath.Join(root, "proc/self/status"))
	return facts{
		usernsClone: number("kernel/unprivileged_userns_clone"),
		appArmor:    number("kernel/apparmor_restrict_unprivileged_userns"),
		maxUser:     number("user/max_user_namespaces"),
		maxNet:      number("user/max_net_namespaces"),
		maxMount:    number("user/max_mnt_namespaces"),
		seccomp:     strings.Contains(string(status), "\nSeccomp:\t2"), // SECCOMP_MODE_FILTER
		container:   exists(".dockerenv") || exists("run/.containerenv"),
		weakRoot:    weakRoot(),
	}
}

// weakRoot reports whether this is root without CAP_SETFCAP, which the kernel since
// Linux 5.12 asks for before root's id may be mapped.
func weakRoot() bool {
	have, err := capabilities()
	return err == nil && os.Geteuid() == 0 && have&(1<<unix.CAP_SETFCAP) == 0
}

// explain names the cause of what the kernel refused, and the remedy.
func explain(err error) error {
	if err == nil || errors.Is(err, ErrForbidden) {
		return err
	}
	if why := readFacts("/").why(err); why != "" {
		return fmt.Errorf("%w: %s (%w)", ErrForbidden, why, err)
	}
	return err
}

const sysctl = "as root: sysctl -w %s, and for good a line with it in /etc/sysctl.d/"

// why is the cause of an error and the remedy, or empty if it is none of these. The order
// is that of certainty.
func (f facts) why(err error) string {
	permission := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	full := errors.Is(err, unix.ENOSPC)
	switch {
	case full && f.maxUser == 0:
		return "the setting user.max_user_namespaces is 0, which forbids user namespaces; " + fmt.Sprintf(sysctl, "user.max_user_namespaces=15000")
	case full && f.maxNet == 0:
		return "the setting user.max_net_namespaces is 0, which forbids network namespaces; " + fmt.Sprintf(sysctl, "user.max_net_namespaces=15000")
	case full && f.maxMount == 0:
		return "the setting user.max_mnt_namespaces is 0, which forbids mount namespaces; " + fmt.Sprintf(sysctl, "user.max_mnt_namespaces=15000")
	case full:
		return "there are as many namespaces as user.max_user_namespaces, max_net_namespaces or max_mnt_namespaces allow; " +
			"end some programs or raise them with sysctl"
	case errors.Is(err, unix.EUSERS):
		return "namespaces are nested too deeply here: start it from outside of some of them"
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		return "the kernel lacks namespaces (CONFIG_USER_NS, CONFIG_NET_NS): it has to be another one"
	case permission && f.usernsClone == 0:
		return "the setting kernel.unprivileged_userns_clone is 0, which leaves user namespaces to root; " +
			fmt.Sprintf(sysctl, "kernel.unprivileged_userns_clone=1")
	case permission && f.container && f.seccomp:
		return "the container's seccomp filter or its AppArmor profile, as Docker's default ones, forbid namespaces and mounts; start the container with " +
			"--security-opt seccomp=unconfined --security-opt apparmor=unconfined --device " + tunFile
	case permission && f.weakRoot:
		return "root without the capability CAP_SETFCAP may make no user namespace: be another user, as in a container with --user 1000, " +
			"or add the capability, as with --cap-add SETFCAP"
	case permission && f.appArmor > 0:
		return "AppArmor restricts user namespaces to programs it knows (kernel.apparmor_restrict_unprivileged_userns is 1); make it know this one: " +
			"softether-go run -print-apparmor-profile | sudo tee /etc/apparmor.d/softether-go && sudo apparmor_parser -r /etc/apparmor.d/softether-go"
	case permission && f.seccomp:
		return "a seccomp filter that this process runs under forbids namespaces: as of a sandbox or of a service with RestrictNamespaces=; start it from outside of that"
	case permission:
		return "this process may make no namespaces: a chroot or a security module forbids it; start it from outside of that"
	}
	return ""
}

// checkTUN finds what would keep the TAP from being made, for lack of a device.
func checkTUN() error {
	err := unix.Faccessat(unix.AT_FDCWD, tunFile, unix.R_OK|unix.W_OK, unix.AT_EACCESS)
	var what string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		what = "load the kernel's driver (as root: modprobe tun); give it to a container with --device " + tunFile
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		what = "it is to be open to everybody, as on most systems; as root: chmod 666 " + tunFile + `, and for good a line ` +
			`KERNEL=="tun", MODE="0666" in /etc/udev/rules.d/; alone it gives nobody any power over the host's network`
	default:
		return nil // package tap will say it
	}
	return fmt.Errorf("%w: %s: %w; %s", ErrForbidden, tunFile, err, what)
}

// AppArmorProfile lets the program at path make user namespaces where AppArmor restricts
// them (Ubuntu 23.10 and later), and does not confine it in any other way.
func AppArmorProfile(path string) string {
	return `abi <abi/4.0>,
include <tunables/global>

profile softether-go "` + path + `" flags=(unconfined) {
  userns,

  include if exists <local/softether-go>
}
`
}
