//go:build linux

package integration

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const (
	serverBinary = "/usr/libexec/softether/vpnserver/vpnserver"
	serverPort   = "443"
	hubName      = "VPN"
)

// softetherSandbox gives a SoftEther program its three directories and a resolver
// of its own, whether the host has those directories or not, and becomes the program.
const softetherSandbox = `
set -e
resolver=$(readlink -m /etc/resolv.conf)
mount -t tmpfs tmpfs /run
mkdir -p /run/softether "$(dirname "$resolver")"
[ -e "$resolver" ] || : >"$resolver"
mount --bind "$1/resolv.conf" "$resolver"
for d in lib log; do
	mount -t tmpfs tmpfs /var/$d
	mkdir /var/$d/softether
	mount --bind "$1/$d" /var/$d/softether
done
exec "$2" execsvc
`

// softetherState makes the directories that softetherSandbox mounts.
func softetherState(t testing.TB, ns *netns) string {
	t.Helper()
	dir := filepath.Join(run.dir, ns.name)
	for _, d := range []string{"lib", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A server is Debian's vpnserver in a namespace. Its state survives Kill and Start.
type server struct {
	t    testing.TB
	ns   *netns
	dir  string
	proc *process
}

// startServer starts a fresh server without a hub but DEFAULT.
func startServer(t testing.TB, ns *netns) *server {
	t.Helper()
	needTool(t, serverBinary, "softether-vpnserver")
	s := &server{t: t, ns: ns, dir: softetherState(t, ns)}
	s.Start()
	return s
}

// Start starts it with the state it has and waits until it serves TLS.
func (s *server) Start() {
	s.t.Helper()
	s.proc = start(s.t, "vpnserver", s.ns.Command("sh", "-c", softetherSandbox, "sh", s.dir, serverBinary))
	eventually(s.t, 20*time.Second, "the server listens", func() error {
		_, err := s.certificate()
		return err
	})
}

// Kill ends it in the middle of whatever it does. What was not flushed is lost.
func (s *server) Kill() { s.proc.Kill() }

// Stop asks it to end: it says goodbye to its sessions and saves its state.
func (s *server) Stop() {
	s.t.Helper()
	s.proc.Signal(os.Interrupt)
	select {
	case <-s.proc.done:
	case <-time.After(20 * time.Second):
		s.t.Logf("the server did not stop by itself")
	}
	s.proc.Kill()
}

func (s *server) certificate() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	raw, err := s.ns.Dial(ctx, "127.0.0.1:"+serverPort)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0].Raw, nil
}

// Pin returns the SHA-256 of the certificate it presents, in hexadecimal.
func (s *server) Pin() string {
	s.t.Helper()
	der, err := s.certificate()
	if err != nil {
		s.t.Fatalf("read the server's certificate: %v", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Admin runs lines of vpncmd as the server's administrator.
func (s *server) Admin(lines ...string) string {
	s.t.Helper()
	return vpncmd(s.t, s.ns, []string{"127.0.0.1:5555", "/SERVER"}, lines...)
}

// Hub runs lines of vpncmd in the hub of the tests.
func (s *server) Hub(lines ...string) string {
	s.t.Helper()
	return s.Admin(append([]string{"Hub " + hubName}, lines...)...)
}

// CreateHub makes the hub, a user with a password and one without, and saves them.
func (s *server) CreateHub() {
	s.t.Helper()
	s.Admin("HubCreate "+hubName+" /PASSWORD:x", "Hub "+hubName,
		"UserCreate "+userName+" /GROUP:none /REALNAME:none /NOTE:none",
		`UserPasswordSet `+userName+` /PASSWORD:"`+userPassword+`"`,
		"UserCreate "+guestName+" /GROUP:none /REALNAME:none /NOTE:none",
		"UserAnonymousSet "+guestName,
		"LogDisable packet", "Flush")
}

// Policy sets one policy of a user.
func (s *server) Policy(user, name, value string) {
	s.t.Helper()
	s.Hub("UserPolicySet " + user + " /NAME:" + name + " /VALUE:" + value)
}

// SecureNAT turns on the hub's own DHCP, DNS and NAT, in user space only: the
// modes that use the kernel need the outside world.
func (s *server) SecureNAT() {
	s.t.Helper()
	s.Hub("ExtOptionSet DisableKernelModeSecureNAT /VALUE:1", "ExtOptionSet DisableIpRawModeSecureNAT /VALUE:1", "SecureNatEnable")
}

// SetCertificate installs a certificate and key from PEM files.
func (s *server) SetCertificate(cert, key string) {
	s.t.Helper()
	s.Admin("ServerCertSet /LOADCERT:"+cert+" /LOADKEY:"+key, "Flush")
}

// HubOffline and HubOnline end and allow all sessions of the hub.
func (s *server) HubOffline() { s.t.Helper(); s.Hub("Offline") }
func (s *server) HubOnline()  { s.t.Helper(); s.Hub("Online") }

// Sessions returns the names of a user's sessions.
func (s *server) Sessions(user string) []string {
	s.t.Helper()
	var names []string
	for _, row := range table(s.t, s.Hub("SessionList"), "Session Name") {
		if row["User Name"] == user {
			names = append(names, row["Session Name"])
		}
	}
	return names
}

// Disconnect ends a session by the administrator's hand.
func (s *server) Disconnect(session string) { s.t.Helper(); s.Hub("SessionDisconnect " + session) }
