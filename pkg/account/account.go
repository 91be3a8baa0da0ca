// Package account reads and writes the official client's account files (.vpn), which
// its AccountExport makes and its AccountImport takes.
//
// # Theory of operation
//
// A file is a tree of typed settings in text (tree.go). An account's tree has two
// folders: ClientOption says where the server is and how to get there, ClientAuth who
// logs in. What this project has no use for, such as window positions, is skipped.
// (Cedar/Client.c, CiLoadClientAccount and CiWriteAccountData)
//
// # Secrets
//
// The file is a secret as a whole: a password user's hash is as good as the password,
// private keys stand there in the clear, and passwords for RADIUS and proxies are
// enciphered by RC4 with a key that everyone knows. An Account does not print them.
//
// That key is "EncryptPassword", cut to the size of a pointer in the program that
// wrote the file: 8 bytes, or 4 from 32-bit programs, which the file does not tell.
// The right one is the one that gives UTF-8, and never do both: the two key streams
// differ by E9 26 at the start, so where one reading begins with an ASCII letter, the
// other has a byte that begins a longer sequence, and the second byte, whose two upper
// bits are the same in both, cannot suit both.
package account

import (
	"crypto/rc4"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An Account is what a file says, of what this project can use.
type Account struct {
	Name string // for people
	Host string // without the hint that may follow a slash
	// Hint is what follows a slash in the host: how the official client is to find the
	// server, such as tcp; empty leaves it the choice.
	Hint string
	Port uint16
	// PortUDP is the server's R-UDP port, to be used in place of TCP; 0 is none.
	PortUDP uint16
	Hub     string
	User    string
	Auth    Auth

	Hash        *[20]byte // AuthPassword; nil if the file has none
	Password    string    // AuthPlain; empty if the file has none
	Certificate []byte    // AuthCertificate; DER
	Key         []byte    // AuthCertificate; DER, in PKCS#1 or PKCS#8

	Proxy   Proxy
	Headers string // more lines for HTTP proxies, each "NAME: VALUE"

	// CheckServer is whether the server's certificate matters at all. If it does, it
	// has to be ServerCertificate (DER), or one of an authority.
	CheckServer       bool
	ServerCertificate []byte

	MaxConnection int // 0 leaves the choice
	TTL           int // seconds that a TCP connection lives; 0 is no limit
	Half          bool
	NoEncrypt     bool
	Compress      bool
	NoUDP         bool
	Bridge        bool
	Monitor       bool
	Retry         int        // seconds between attempts; 0 leaves the choice
	BindAddress   netip.Addr // invalid means any
}

// String names the account and none of its secrets.
func (a Account) String() string { return fmt.Sprintf("account %q", a.Name) }

// GoString is String, so that no verb prints secrets.
func (a Account) GoString() string { return a.String() }

// Auth is how a user is proved. (Cedar/Cedar.h, CLIENT_AUTHTYPE_*)
type Auth int

// The kinds, by their numbers in the file.
const (
	AuthAnonymous   Auth = 0
	AuthPassword    Auth = 1 // by its hash
	AuthPlain       Auth = 2 // for RADIUS and domains
	AuthCertificate Auth = 3
)

// ProxyKind is what a proxy speaks. (Cedar/Connection.h, PROXY_*)
type ProxyKind int

// The kinds, by their numbers in the file.
const (
	ProxyNone   ProxyKind = 0
	ProxyHTTP   ProxyKind = 1
	ProxySOCKS4 ProxyKind = 2
	ProxySOCKS5 ProxyKind = 3
)

// A Proxy stands between the client and the server.
type Proxy struct {
	Kind     ProxyKind
	Host     string
	Port     uint16
	User     string
	Password string
}

const maxText = 255 // of names and passwords, in bytes (Cedar/Cedar.h, MAX_USERNAME_LEN and others)

// Parse reads a file. Its error is one line, without secrets.
func Parse(b []byte) (Account, error) {
	a, err := parseAccount(b)
	if err != nil {
		return Account{}, fmt.Errorf("is no account file that can be read: %w; export it anew, in the VPN Client Manager or by vpncmd's AccountExport", err)
	}
	return a, nil
}

func parseAccount(b []byte) (a Account, err error) {
	root, err := parseTree(b)
	if err != nil {
		return a, err
	}
	option, auth := root.folders["clientoption"], root.folders["clientauth"]
	if option == nil || auth == nil {
		return a, errors.New("it lacks the folder ClientOption or ClientAuth")
	}
	var r reader
	a.readOption(&r, option)
	a.readProxy(&r, option)
	a.readAuth(&r, auth)
	a.CheckServer = r.bool(root, "CheckServerCert")
	a.ServerCertificate = r.certificate(root, "ServerCert")
	if r.err == nil && (a.Host == "" || a.Hub == "") {
		return a, errors.New("it names no server or no virtual hub")
	}
	return a, r.err
}

func (a *Account) readOption(r *reader, f *folder) {
	a.Name = r.str(f, "AccountName")
	a.Host, a.Hint, _ = strings.Cut(r.str(f, "Hostname"), "/")
	a.Port = uint16(r.uint(f, "Port", 1<<16-1))
	a.PortUDP = uint16(r.uint(f, "PortUDP", 1<<16-1))
	a.Hub = r.str(f, "HubName")
	a.MaxConnection = int(r.uint(f, "MaxConnection", 32))
	a.TTL = int(r.uint(f, "ConnectionDisconnectSpan", 1<<31-1))
	a.Half = r.bool(f, "HalfConnection")
	_, said := f.items["useencrypt"]
	a.NoEncrypt = said && !r.bool(f, "UseEncrypt")
	a.Compress = r.bool(f, "UseCompress")
	a.NoUDP = r.bool(f, "NoUdpAcceleration")
	a.Bridge = r.bool(f, "RequireBridgeRoutingMode")
	a.Monitor = r.bool(f, "RequireMonitorMode")
	a.Retry = int(r.uint(f, "RetryInterval", 1<<31-1))
	if addr, err := netip.ParseAddr(r.str(f, "BindLocalIP")); err == nil && !addr.IsUnspecified() {
		a.BindAddress = addr
	}
}

func (a *Account) readProxy(r *reader, f *folder) {
	a.Proxy.Kind = ProxyKind(r.uint(f, "ProxyType", 3))
	if a.Proxy.Kind == ProxyNone {
		return // what else there is, is from earlier
	}
	a.Proxy.Host = r.str(f, "ProxyName")
	a.Proxy.Port = uint16(r.uint(f, "ProxyPort", 1<<16-1))
	a.Proxy.User = r.str(f, "ProxyUsername")
	a.Proxy.Password = r.secret(f, "ProxyPassword")
	it, _ := r.get(f, "CustomHttpHeader", "string")
	a.Headers = it.text
	if r.err == nil && a.Proxy.Host == "" {
		r.err = errors.New("it has a kind of proxy, but no proxy")
	}
}

func (a *Account) readAuth(r *reader, f *folder) {
	a.User = r.str(f, "Username")
	a.Auth = Auth(r.uint(f, "AuthType", 99))
	switch a.Auth {
	case AuthAnonymous:
	case AuthPassword:
		b := r.bytes(f, "HashedPassword")
		var hash [20]byte
		switch {
		case len(b) != 0 && len(b) != len(hash):
			r.fail(f.items["hashedpassword"], "HashedPassword", fmt.Sprintf("has %d bytes and not 20", len(b)))
		case len(b) != 0 && [20]byte(b) != hash: // zeros: exported without secrets
			hash = [20]byte(b)
			a.Hash = &hash
		}
	case AuthPlain:
		a.Password = r.secret(f, "EncryptedPassword")
	case AuthCertificate:
		a.Certificate = r.certificate(f, "ClientCert")
		a.Key = r.bytes(f, "ClientKey")
		if len(a.Key) > 0 && keyKind(a.Key) == "" {
			r.fail(f.items["clientkey"], "ClientKey", "is no private key")
		}
	default:
		if r.err == nil {
			r.err = fmt.Errorf("it logs in by a smart card or token (AuthType %d), which is not supported", a.Auth)
		}
	}
}

func (r *reader) certificate(f *folder, name string) []byte {
	b := r.bytes(f, name)
	if len(b) == 0 {
		return nil
	}
	if _, err := x509.ParseCertificate(b); err != nil {
		r.fail(f.items[strings.ToLower(name)], name, "is no X.509 certificate")
		return nil
	}
	return b
}

// keyKind returns the PEM type of a private key in DER, or nothing if it is none.
func keyKind(der []byte) string {
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return "RSA PRIVATE KEY"
	}
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return "PRIVATE KEY"
	}
	return ""
}

// KeyKind returns the PEM type of Key, or nothing if there is none.
func (a Account) KeyKind() string { return keyKind(a.Key) }

// The keys, by the programs that use them.
var (
	key64 = []byte("EncryptP")
	key32 = []byte("Encr")
)

// secret deciphers an item. (Cedar/Client.c, DecryptPassword)
func (r *reader) secret(f *folder, name string) string {
	b := r.bytes(f, name)
	for _, key := range [][]byte{key64, key32} {
		if text := crypt(key, b); isSecret(text) {
			return string(text)
		}
	}
	r.fail(f.items[strings.ToLower(name)], name, "cannot be deciphered")
	return ""
}

func isSecret(b []byte) bool { return len(b) <= maxText && utf8.Valid(b) && printable(string(b)) }

func printable(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }

// crypt enciphers and deciphers; they are the same.
func crypt(key, b []byte) []byte {
	out := make([]byte, len(b))
	c, err := rc4.NewCipher(key)
	if err != nil {
		panic(err) // of the key's length alone
	}
	c.XORKeyStream(out, b)
	return out
}

const banner = "\ufeff# VPN Client VPN Connection Setting File\r\n" +
	"# \r\n# This file was exported by softether-go. It holds secrets.\r\n\r\n"

// Bytes returns the file, for 64-bit clients. What the official client has and an
// Account lacks is as its AccountCreate has it.
func (a Account) Bytes() []byte {
	var w writer
	w.WriteString(banner)
	w.folder("root", func() {
		w.bool("CheckServerCert", a.CheckServer)
		w.bool("RetryOnServerCert", false)
		w.bool("AddDefaultCA", a.CheckServer)
		w.bool("StartupAccount", false)
		if a.ServerCertificate != nil {
			w.bytes("ServerCert", a.ServerCertificate)
		}
		w.WriteString("\r\n")
		w.folder("ClientAuth", func() { a.writeAuth(&w) })
		w.folder("ClientOption", func() { a.writeOption(&w) })
	})
	return w.Buffer.Bytes()
}

func (a Account) writeAuth(w *writer) {
	w.uint("AuthType", uint64(a.Auth))
	w.str("Username", a.User)
	switch a.Auth {
	case AuthPassword:
		var hash [20]byte
		if a.Hash != nil {
			hash = *a.Hash
		}
		w.bytes("HashedPassword", hash[:])
	case AuthPlain:
		w.bytes("EncryptedPassword", crypt(key64, []byte(a.Password)))
	case AuthCertificate:
		w.bytes("ClientCert", a.Certificate)
		w.bytes("ClientKey", a.Key)
	}
}

func (a Account) writeOption(w *writer) {
	host := a.Host
	if a.Hint != "" {
		host += "/" + a.Hint
	}
	w.str("AccountName", a.Name)
	w.str("Hostname", host)
	w.uint("Port", uint64(a.Port))
	w.uint("PortUDP", uint64(a.PortUDP))
	w.str("HubName", a.Hub)
	w.str("DeviceName", "VPN")
	w.uint("ProxyType", uint64(a.Proxy.Kind))
	w.str("ProxyName", a.Proxy.Host)
	w.uint("ProxyPort", uint64(a.Proxy.Port))
	w.str("ProxyUsername", a.Proxy.User)
	w.bytes("ProxyPassword", crypt(key64, []byte(a.Proxy.Password)))
	w.str("CustomHttpHeader", a.Headers)
	w.uint("MaxConnection", uint64(max(1, a.MaxConnection)))
	w.bool("HalfConnection", a.Half)
	w.bool("UseEncrypt", !a.NoEncrypt)
	w.bool("UseCompress", a.Compress)
	w.bool("NoUdpAcceleration", a.NoUDP)
	w.bool("RequireBridgeRoutingMode", a.Bridge)
	w.bool("RequireMonitorMode", a.Monitor)
	w.uint("NumRetry", 1<<32-1)
	w.uint("RetryInterval", uint64(max(5, a.Retry))) // Cedar/Client.h, MIN_RETRY_INTERVAL_SECONDS
	w.uint("AdditionalConnectionInterval", 1)
	w.uint("ConnectionDisconnectSpan", uint64(a.TTL))
	if a.BindAddress.IsValid() {
		w.str("BindLocalIP", a.BindAddress.String())
	}
}
