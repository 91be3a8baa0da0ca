//go:build linux

package integration

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/account"
)

// connected waits until an account of the official client has a session.
func (o *official) connected(account string) {
	o.t.Helper()
	eventually(o.t, 20*time.Second, "the official client is connected by "+account, func() error {
		for _, row := range table(o.t, o.Admin("AccountList"), "VPN Connection Setting Name") {
			if row["VPN Connection Setting Name"] == account && row["Status"] == "Connected" {
				return nil
			}
		}
		return fmt.Errorf("not connected")
	})
}

// accountWorld is a hub with a LAN, and users by password, certificate and none.
func accountWorld(t *testing.T) (w *world, certFile, keyFile string) {
	w = newWorld(t)
	cert, key := userCertificate(t, 2048, "carol", nil, tomorrow())
	w.srv.certUser("carol", cert)
	return w, writePEM(t, "CERTIFICATE", cert.Raw), writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

// Proves that what the official client exports logs in here, both as it is and
// imported into a config file, by each kind of login.
func TestAccountsOfTheOfficialClientGetIn(t *testing.T) {
	t.Parallel()
	w, certFile, keyFile := accountWorld(t)
	o := startOfficial(t, w.cli)
	dir := filepath.Join(run.dir, fmt.Sprintf("%d-accounts", logNumber.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server := " /SERVER:" + serverAddress + ":" + serverPort + " /HUB:" + hubName + " /NICNAME:v1 /USERNAME:"
	for _, row := range []struct{ name, user, login string }{
		{"hashed", userName, `AccountPasswordSet hashed /PASSWORD:"` + userPassword + `" /TYPE:standard`},
		{"plain", userName, `AccountPasswordSet plain /PASSWORD:"` + userPassword + `" /TYPE:radius`},
		{"anonymous", guestName, "AccountAnonymousSet anonymous"},
		{"certificate", "carol", "AccountCertSet certificate /LOADCERT:" + certFile + " /LOADKEY:" + keyFile},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(dir, row.name+".vpn")
			o.Admin("AccountCreate "+row.name+server+row.user, row.login, "AccountExport "+row.name+" /SAVEPATH:"+path)
			if err := os.Chmod(path, 0o644); err != nil { // the client is nobody
				t.Fatal(err)
			}
			f := flags{"account": path, "insecure": "true", "socks5": socksProxy, "http": httpProxy}
			c := w.in(t).StartClient(f)
			c.WaitUp()
			c.Terminate()

			out := filepath.Join(dir, row.name+".conf")
			path2, err := buildClient()
			if err != nil {
				t.Fatal(err)
			}
			command(t, path2, "import", path, out)
			files, err := filepath.Glob(filepath.Join(dir, row.name+".*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if err := os.Chmod(file, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// The account trusted anyone, so the config remembers whom it meets.
			f = flags{"config": out, "trust-on-first-use": "false", "insecure": "true", "socks5": socksProxy, "http": httpProxy}
			c = w.in(t).StartClient(f)
			c.WaitUp()
			c.Terminate()
			if log := c.Log(); strings.Contains(log, userPassword) {
				t.Errorf("the password is in the log:\n%s", log)
			}
		})
	}
}

// Proves that the official client imports what we export, connects by it, and says
// the same when it exports it again.
func TestTheOfficialClientImportsOurAccounts(t *testing.T) {
	t.Parallel()
	w, certFile, keyFile := accountWorld(t)
	o := startOfficial(t, w.cli)
	dir := t.TempDir()
	program, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	pass := secretFile(t, "pass", []byte(userPassword+"\n"))
	for _, row := range []struct {
		name  string
		flags flags
	}{
		{"hashed", flags{"user": userName, "pass-file": pass}},
		{"plain", flags{"user": userName, "pass-file": pass, "plain-password": "true"}},
		{"anonymous", flags{"user": guestName, "anonymous": "true"}},
		{"certificate", flags{"user": "carol", "cert": certFile, "key": keyFile}},
	} {
		t.Run(row.name, func(t *testing.T) {
			ours, theirs := filepath.Join(dir, row.name+".vpn"), filepath.Join(dir, row.name+"-again.vpn")
			f := row.flags.with(flags{"host": serverAddress, "hub": hubName, "insecure": "true"})
			command(t, program, append([]string{"export", ours}, f.args()...)...)
			o.Admin("AccountImport "+argument(t, ours), "AccountNicSet "+row.name+" /NICNAME:v1",
				"AccountExport "+row.name+" /SAVEPATH:"+theirs, "AccountConnect "+row.name)
			o.connected(row.name)
			o.Admin("AccountDisconnect " + row.name)
			if got, want := secretsOf(t, theirs), secretsOf(t, ours); got != want {
				t.Errorf("exported again: got %s, want %s", got, want)
			}
		})
	}

	// What no server here is asked about.
	ours, theirs := filepath.Join(dir, "proxy.vpn"), filepath.Join(dir, "proxy-again.vpn")
	f := flags{"host": "vpn.example.com", "port": "992", "hub": "Größe 5", "user": "alice", "pass-file": pass,
		"proxy": "http://me@proxy.example:3128", "proxy-url-pass-file": pass, "insecure": "true"}
	command(t, program, append([]string{"export", ours}, f.args()...)...)
	o.Admin("AccountImport "+argument(t, ours), "AccountExport proxy /SAVEPATH:"+theirs)
	if got, want := secretsOf(t, theirs), secretsOf(t, ours); got != want || !strings.Contains(got, "proxy.example") {
		t.Errorf("exported again: got %s, want %s", got, want)
	}
}

// secretsOf says in one line what an account file says about the login and the way.
func secretsOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := account.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	hash := ""
	if a.Hash != nil {
		hash = hex.EncodeToString(a.Hash[:])
	}
	return fmt.Sprintf("%s:%d %s %s %d %s %q %x %x %+v", a.Host, a.Port, a.Hub, a.User, a.Auth, hash, a.Password, a.Certificate, a.Key, a.Proxy)
}
