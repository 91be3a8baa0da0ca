package session

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Trust says which servers to believe. The zero value is the system's
// certification authorities and the host name. Exactly one way applies: pins
// before known servers before Insecure before authorities.
type Trust struct {
	// Roots replaces the system's certification authorities.
	Roots *x509.CertPool
	// Pins accepts exactly the certificates whose SHA-256, or whose public key's
	// (SubjectPublicKeyInfo), is among them; names and dates do not matter then.
	Pins [][sha256.Size]byte
	// Known accepts whom it knows, and gets to know whom it does not; nil means that
	// nobody is remembered.
	Known *KnownServers
	// Insecure accepts anyone.
	Insecure bool
}

// tlsConfig is what all connections have in common.
func tlsConfig(host string) *tls.Config {
	return &tls.Config{
		ServerName: host,
		MinVersion: tls.VersionTLS12,
		// Small first records would cut every batch in pieces.
		DynamicRecordSizingDisabled: true,
	}
}

// pinnedConfig accepts exactly one certificate, which somebody who is trusted has named.
func pinnedConfig(host string, want *x509.Certificate) *tls.Config {
	c := tlsConfig(host)
	c.InsecureSkipVerify = true // what follows is the verification
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if got := state.PeerCertificates[0]; !got.Equal(want) {
			return &UntrustedError{Certificate: got, Other: true, Err: errOtherCertificate}
		}
		return nil
	}
	return c
}

var errOtherCertificate = errors.New("it is not the one that was announced")

// config returns a TLS client configuration that enforces t for host, which is known
// by its address with the port.
func (t Trust) config(host, address string) *tls.Config {
	c := tlsConfig(host)
	c.RootCAs = t.Roots
	if len(t.Pins) > 0 {
		c.InsecureSkipVerify = true // the pin is the verification
		c.VerifyConnection = t.checkPins
	} else if t.Known != nil {
		c.InsecureSkipVerify = true // what is remembered is the verification
		c.VerifyConnection = func(state tls.ConnectionState) error { return t.Known.check(address, state) }
	} else if t.Insecure {
		c.InsecureSkipVerify = true
	}
	return c
}

func (t Trust) checkPins(state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0]
	if slices.Contains(t.Pins, sha256.Sum256(leaf.Raw)) ||
		slices.Contains(t.Pins, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
		return nil
	}
	return &UntrustedError{Certificate: leaf, Pinned: true, Err: errors.New("it is not the pinned one")}
}

// UntrustedError says that a server's certificate was refused, and how to accept
// it if it is the right one.
type UntrustedError struct {
	Certificate *x509.Certificate
	Pinned      bool // pins were given, and it is not among them
	Other       bool // it should be that of the session's first connection, or what the cluster's controller said
	Err         error
}

func (e *UntrustedError) Error() string {
	var changed *ChangedError
	if errors.As(e.Err, &changed) {
		return changed.Error()
	}
	sum := sha256.Sum256(e.Certificate.Raw)
	if e.Other {
		return fmt.Sprintf("the certificate of %q (SHA-256 %s) is not the one that this server has by what a connection before it said; "+
			"somebody may be in between, or the certificate was changed just now", clipName(e.Certificate.Subject.CommonName), hex.EncodeToString(sum[:]))
	}
	remedy := "if this is your server, trust exactly this certificate with -pin sha256:"
	if e.Pinned {
		remedy = "somebody may be in between; if the server has a new certificate, use -pin sha256:"
	}
	return fmt.Sprintf("the certificate of %q is not trusted: %v; %s%s",
		clipName(e.Certificate.Subject.CommonName), e.Err, remedy, hex.EncodeToString(sum[:]))
}

// Unwrap returns the verdict.
func (e *UntrustedError) Unwrap() error { return e.Err }

func clipName(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// explainTLS turns a handshake's error into one that says what to do.
func explainTLS(err error) error {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0 {
		return &UntrustedError{Certificate: verify.UnverifiedCertificates[0], Err: verify.Err}
	}
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return fmt.Errorf("the peer does not speak TLS; is this the server's port? (%w)", err)
	}
	return err
}
