// Package config turns flags, environment and a config file into one checked
// value that the program is built from.
//
// # Theory of operation
//
// Every setting is one row of one table: its name, its group, its default, its
// help, how its text becomes a value and which field the value fills. Flags,
// SOFTETHER_ variables, config-file keys, the usage text, the README's table and
// the printout of what was resolved all come from that table, so they agree.
//
// Load first only collects words: the command line, then the environment, then
// the config file, each filling what the ones before left open. Then it parses
// the words, settles what depends on several of them (the mode, the
// authentication, where the password is), and checks how they fit together. It
// reports everything it found wrong at once, one line each, naming the flag, the
// remedy, and the variable or file line if that is where the value came from.
//
// # Precedence
//
// A flag beats the environment, which beats the config file, which beats the
// default. A list from a higher place replaces a lower one, it does not add to
// it. An empty variable counts as unset. A flag given twice counts the last time,
// as the standard library has it; lists add up.
//
// Settings that contradict each other are an error wherever they come from,
// with two exceptions in which the higher place wins: a port in -host against
// -port, and -pass against -pass-file. Of several hosts, -port is for those that
// have none of their own, unless it is from a higher place.
//
// Only -proxy-from-env looks at variables that are not ours: HTTPS_PROXY and
// NO_PROXY, in capitals or small letters.
//
// # Modes
//
// A proxy that is asked for means the netstack, else the mode is TAP; -mode says it
// outright; the Source says if it is neither but for a command with a network of its
// own. A setting of the other mode is refused, never ignored: who asks for a
// default route or for a proxy would think they have it.
//
// # Passwords
//
// -pass, -pass-file, the SOFTETHER_ variables of both, systemd's credentials
// directory (softether-pass, then pass), and last the prompt that the caller
// brings; the proxies' passwords likewise, with the credentials
// softether-proxy-pass and softether-proxy-url-pass, and no prompt. A password in
// -proxy's URL is shown as if it were -proxy-url-pass. A password is a Secret from the moment it
// is parsed, and an error never repeats a word that could be one: what a switch
// was given, a stray argument, a config-file key nobody knows.
//
// A stored hash (-pass-hash) stands in for the password it was made of, and of the two
// the one from the higher place counts. A certificate (-cert and -key, or -p12) is
// read by the caller: only it can ask for a passphrase that turns out to be needed.
//
// # Accounts
//
// -account names a file of the official client. What it says has a place of its own,
// below the config file. Its settings go by groups: the server and its port, the login,
// the trust, the proxy. A group of which anything is given elsewhere is left alone, so
// that a password does not meet another login's user, nor a port another's host.
//
// # Limits
//
// A config file is at most 1 MiB, a password 255 bytes (Cedar/Cedar.h,
// MAX_PASSWORD_LEN), a user or hub name 255 bytes. Load opens only the config
// file and the files that passwords are in. It starts no goroutine.
//
// The file format is the plain one of peterbourgon/ff: one "name value" a line,
// # for comments, a switch without its value is on.
package config

import (
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"softether-go/pkg/split"
)

// Config is everything the user decided, checked. It is data: nothing in it is
// open or running, and nobody changes it once Load has returned it.
type Config struct {
	Server   Server
	Links    Links
	UDP      UDP
	Way      Way
	Auth     Auth
	Trust    Trust
	Address  Addressing
	Proxy    Proxy    // in ModeNetstack, and only then
	Forwards Forwards // in ModeNetstack, and only then
	Split    Split    // in ModeNetstack, and only then
	TAP      TAP      // in ModeTAP, and only then
	Run      Run      // in ModeRun, and only then
	Retry    Retry
	Service  Service
	Log      Log
	Mode     Mode // never ModeAuto after Load

	Notes    []string  // what is permitted but deserves a warning at start; no secrets
	Settings []Setting // each setting's text and origin, secrets redacted; in table order
}

// Server says where the hub is.
type Server struct {
	Host    string    // a DNS name or an IP address without brackets
	Port    uint16    // 443 by default
	Others  []Address // to try after Host, in this order
	Fastest bool      // begin with the one that connects first
	Hub     string    // DEFAULT by default
}

// Addresses returns all of them, the first first.
func (s Server) Addresses() []Address {
	return append([]Address{{s.Host, s.Port}}, s.Others...)
}

// An Address is one place where the hub may be.
type Address struct {
	Host string
	Port uint16
}

// Way says how to get to the server, beside the tunnel.
type Way struct {
	Proxy         ProxyURL
	Headers       []Header   // only with a Proxy of HTTP
	FromEnv       bool       // Proxy is HTTPS_PROXY, and NO_PROXY counts
	BindAddress   netip.Addr // invalid means any
	BindInterface string     // empty means any
	Mark          uint32     // 0 means none
	Transport     Transport
	RUDPPort      uint16 // 0 unless the Transport has it
}

// Addr returns host:port for dialing.
func (s Server) Addr() string {
	return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port)))
}

// Auth says who logs in. The user is named even if anonymous, because the server
// finds the account by its name.
type Auth struct {
	Method   Method
	User     string
	Password Secret // may be set and empty; not set if anonymous or by certificate
	Hash     Secret // in place of Password, if hashed: 40 hexadecimal digits
	// SecretFile is where Password or Hash were read from, and may be read from again
	// by ReadAgain. Empty if they are from elsewhere.
	SecretFile string

	// ByCertificate: two files, one, or what an account file holds.
	CertFile, KeyFile string
	PKCS12File        string
	Inline            Secret // certificate and key in PEM
	KeyPassword       Secret // not set if there is none, or nobody has said it yet
	Token             Token  // the key is there; CertFile may be empty
}

// Token is a PKCS#11 device with a private key. Its PIN is Auth.KeyPassword.
type Token struct {
	Module string // the path of its library; empty means that there is no token
	Label  string
	Object string // label of the key; empty leaves it to the certificate
}

// Method is how the password is proved.
type Method uint8

// The methods.
const (
	HashedPassword Method = iota // a hash over the server's challenge; the default
	PlainPassword                // as it is, inside TLS: for RADIUS and external users
	Anonymous                    // no password at all
	ByCertificate                // a signature by the user's private key
)

// String names the method.
func (m Method) String() string {
	return [...]string{"hashed password", "plain password", "anonymous", "certificate"}[m]
}

// Trust says which server is the right one. Its zero value is the system's
// certificate authorities and the host name. At most one field is set.
type Trust struct {
	CAFile   string // PEM; in place of the system's authorities
	Pins     []Pin  // certificates or public keys to accept
	Insecure bool   // accept anyone

	KnownServers string // the file of servers trusted on first use; empty means not so
}

// Addressing says how the inside of the tunnel gets its address. DNS and Search
// override the lease's, or stand alone without DHCP.
type Addressing struct {
	NoDHCP   bool
	Address  netip.Prefix     // with NoDHCP, and only then
	Gateway  netip.Addr       // with NoDHCP; invalid means nothing beyond the prefix
	Address6 netip.Prefix     // in ModeNetstack; invalid means by routers and DHCPv6
	Gateway6 netip.Addr       // with Address6; invalid means nothing beyond the prefix
	NoIPv6   bool             // in ModeNetstack and ModeRun; else IPv6 is configured if the VPN has it
	DNS      []netip.Addr     // of both families in ModeNetstack, else IPv4
	Search   []string         // without the final dot
	Hostname string           // DHCP option 12; empty sends none
	ClientID ClientID         // DHCP option 61, type byte included; nil leaves the choice to DHCP
	MAC      net.HardwareAddr // nil means random
}

// Proxy says what to serve. Every address has a host, or none for all
// interfaces, and a numeric port; or it is unix:PATH, unix:@NAME, fd:N, systemd:NAME or
// systemd: for all that systemd passes.
type Proxy struct {
	Mixed  []string // SOCKS and HTTP
	SOCKS5 []string // and SOCKS4
	HTTP   []string

	SocketMode SocketMode // of Unix sockets; zero means 0600

	User     string // empty means no authentication
	Password Secret // set exactly if User is
	HTTPS    []string
	CertFile string // of HTTPS and Mixed; set exactly if KeyFile is
	KeyFile  string
	Announce Announce // to web servers
	Isolate  bool     // users are hosts of their own; only with Users
	Users    string   // a file of several; then there is no User
	Open     bool     // listen beyond loopback even without authentication
}

// Split says what proxy clients reach beside the VPN.
type Split struct {
	Direct []split.Target // by this machine's network
	ViaVPN []split.Target // exceptions to that
}

// TAP says what the kernel's own stack gets of the VPN. The address and its subnet
// it always gets.
type TAP struct {
	Name                 string // of the interface; empty leaves the choice to the kernel
	AcceptDefaultGateway bool
	AcceptStaticRoutes   bool // a default route among them only with AcceptDefaultGateway
	AcceptDNS            bool
	PolicyTable          int  // for packets from the VPN's address; 0 means none
	ConnMark             bool // only with PolicyTable
	BlockIPv6            bool // only with AcceptDefaultGateway
	SLAAC                bool // the kernel configures IPv6 on the TAP by router advertisements

	// Bridge is the Linux bridge that the interface is a port of. If it is set, all
	// of the above but the name is zero, and so is Config.Address but its MAC.
	Bridge string

	// Monitor shows all frames of the hub on the interface, and sends none. If it is set,
	// the same fields are zero as with Bridge, and so is Bridge.
	Monitor bool
}

// Run says what the command of softether-go run gets beside a network of its own.
type Run struct {
	Publish []Publish // ports of this machine that lead to servers inside
	Capture bool      // let the command capture packets of its own network
	Share   string    // the name under which others may attach; empty shares with nobody
	// ProxyEnv says what to do where namespaces are forbidden: tell the command of proxies
	// by its environment, which it may ignore.
	ProxyEnv bool
	PID      int    // give the network to the namespace of this process; no command is run
	NetNS    string // the same, by the path of the namespace
	Attach   string // use a shared session; then there is no Server and no Auth
}

// Retry says how fast to come back.
type Retry struct {
	Delay    time.Duration // base between attempts; 5s by default
	MaxDelay time.Duration // what it may grow to; never below Delay
}

// Service says what whoever supervises the program may ask of it.
type Service struct {
	Health       []string      // where: HOST:PORT, unix:PATH or unix:@NAME
	HealthTarget string        // whom to ask through the tunnel: an address or a name; empty means the gateway
	Drain        time.Duration // for connections of the proxies at the end; 2s by default
}

// Log says what to write and in which form.
type Log struct {
	Level      slog.Level
	JSON       bool
	Statistics time.Duration // between lines with the counters; 0 means none
}

// Mode is what the frames are carried to.
type Mode uint8

// The modes.
const (
	ModeAuto     Mode = iota // by what is asked for
	ModeNetstack             // the user-space stack and its proxies
	ModeTAP                  // the kernel's stack by a TAP device
	ModeRun                  // a network of its own for one command; of a command of ours, not of -mode
	ModeTool                 // the user-space stack for a command of ours that serves nothing; not of -mode
)

// String gives the mode as -mode takes it.
func (m Mode) String() string {
	return [...]string{"auto", "netstack", "tap", "run", "tool"}[m]
}

// A Setting is the outcome for one row of the table.
type Setting struct {
	Name   string
	Value  string // as a config file would have it; empty if not set
	Origin Origin
	Where  string // the variable, the file and line, or the credential; else the origin's name
}

// Origin is where a setting's value came from. Of the first five, a later one
// beats an earlier.
type Origin uint8

// The origins.
const (
	FromDefault Origin = iota
	FromAccount
	FromFile
	FromEnv
	FromFlag
	FromCredential // passwords only
	FromPrompt     // passwords only
)

// String names the origin.
func (o Origin) String() string {
	return [...]string{"default", "account file", "config file", "environment", "flag", "credential", "prompt"}[o]
}
