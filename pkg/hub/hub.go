package hub

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/udpaccel"
	"softether-go/pkg/wire"
)

// Config says what hub to make. The zero value is a hub that lets nobody in.
type Config struct {
	Hub   string // name of the virtual hub; empty means DEFAULT
	Users []User

	// Certificate is shown to clients; the zero value means a fresh self-signed one.
	Certificate tls.Certificate

	Timeout time.Duration // of a silent session; 0 means 20 s
	Message string        // shown to each user who logs in
	Policy  wire.Policy   // told to clients, not enforced; nil means what a user without policy gets
	// Cleartext lets clients that ask for it go on without encryption.
	Cleartext bool
	// QoS grants a connection for urgent frames to those who ask.
	QoS bool
	// UDP grants UDP acceleration to those who ask, by MaxUDPVersion at most; 0 means the
	// latest.
	UDP           bool
	MaxUDPVersion udpaccel.Version
	// Redirect, if set, makes the hub a cluster's controller: it sends each login that is
	// good on. Tickets are what it lets in as a member.
	Redirect *wire.Redirect
	Tickets  [][]byte

	MaxSessions    int // 0 means 256
	MaxConnections int // of all sessions and negotiations; 0 means 1024

	Rand io.Reader    // challenges and session keys; nil means crypto/rand
	Log  *slog.Logger // nil discards
}

// A User may log in.
type User struct {
	Name     string // case does not matter
	Password string
	// Anonymous lets the user in whatever proof he brings, as the reference server
	// does for users of that kind.
	Anonymous bool
}

func (c Config) withDefaults() Config {
	if c.Hub == "" {
		c.Hub = "DEFAULT"
	}
	if c.Timeout == 0 {
		c.Timeout = wire.DefaultTimeout
	}
	if c.Policy == nil {
		c.Policy = wire.Policy{{Name: "Access", Value: 1}, {Name: "MaxConnection", Value: 32},
			{Name: "TimeOut", Value: uint32(c.Timeout / time.Second)}, {Name: "Ver3", Value: 1}}
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 256
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 1024
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// A Hub is a virtual hub with its server.
type Hub struct {
	cfg    Config
	users  map[string]user // by name in lower case
	tls    *tls.Config
	lan    *lan
	faults faultList
	stats  hubCounters

	randMu sync.Mutex // guards cfg.Rand

	mu       sync.Mutex // guards the fields below, and the sessions' membership
	closed   bool
	stops    map[*context.CancelFunc]struct{} // of the running Serve and Plug calls
	sessions map[sessionKey]*session
	opened   int           // sessions so far
	changed  chan struct{} // closed and replaced when a membership changes

	running sync.WaitGroup // Serve and Plug calls; added to under mu
	conns   atomic.Int64   // being served
	connID  atomic.Int64   // the number of the last connection
}

type user struct {
	name      string
	anonymous bool
	hash      [wire.HashLen]byte
}

// New makes a hub. It does nothing before Serve or Plug.
func New(c Config) (*Hub, error) {
	h := &Hub{
		cfg:      c.withDefaults(),
		users:    make(map[string]user),
		lan:      newLAN(),
		stops:    make(map[*context.CancelFunc]struct{}),
		sessions: make(map[sessionKey]*session),
		changed:  make(chan struct{}),
	}
	for _, u := range c.Users {
		if u.Name == "" {
			return nil, errors.New("hub: a user has no name")
		}
		h.users[strings.ToLower(u.Name)] = user{u.Name, u.Anonymous, wire.PasswordHash(u.Name, u.Password)}
	}
	h.cfg.Users = nil // their passwords have no business here any more
	if len(c.Certificate.Certificate) == 0 {
		cert, err := selfSigned()
		if err != nil {
			return nil, fmt.Errorf("hub: make a certificate: %w", err)
		}
		h.cfg.Certificate = cert
	}
	h.tls = &tls.Config{
		Certificates:           []tls.Certificate{h.cfg.Certificate},
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true, // no client of this protocol resumes
		// Small first records would cut every batch in pieces.
		DynamicRecordSizingDisabled: true,
	}
	return h, nil
}

// selfSigned makes a certificate like those most servers have: self-signed, in the
// name of a machine. It names loopback too, so that a test can verify it as a root.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "hub.demo"},
		DNSNames:     []string{"hub.demo", "localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		// Wide, as virtual clocks in tests start in the year 2000.
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2049, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Certificate returns the certificate shown to clients, in DER.
func (h *Hub) Certificate() []byte { return h.cfg.Certificate.Certificate[0] }

// Fingerprint returns the SHA-256 of the certificate.
func (h *Hub) Fingerprint() [sha256.Size]byte { return sha256.Sum256(h.Certificate()) }

// random returns a fresh challenge or key.
func (h *Hub) random() (b [wire.HashLen]byte, err error) {
	h.randMu.Lock()
	defer h.randMu.Unlock()
	_, err = io.ReadFull(h.cfg.Rand, b[:])
	return b, err
}

// enter registers a call to Serve or Plug, whose context ends with the hub.
// leave undoes it.
func (h *Hub) enter(ctx context.Context) (inner context.Context, leave func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, net.ErrClosed
	}
	inner, cancel := context.WithCancel(ctx)
	h.stops[&cancel] = struct{}{}
	h.running.Add(1)
	return inner, func() {
		cancel()
		h.mu.Lock()
		delete(h.stops, &cancel)
		h.mu.Unlock()
		h.running.Done()
	}, nil
}

// Close ends all sessions and every Serve and Plug, and waits for them.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	for cancel := range h.stops {
		(*cancel)()
	}
	h.mu.Unlock()
	h.running.Wait()
	return nil
}

// stopped returns why a call ended whose own context is ctx.
func stopped(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return net.ErrClosed
}

// TLSCertificate returns the certificate shown to clients, with its key.
func (h *Hub) TLSCertificate() tls.Certificate { return h.cfg.Certificate }
