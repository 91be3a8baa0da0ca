// Package credential reads a user's certificate and private key from files.
//
// # Theory of operation
//
// A certificate user is let in by a signature of the server's challenge. What the
// server takes decides what is taken here: RSA keys of certain sizes and nothing
// else, so that a key that cannot work is refused by name, with what to do, before
// the server answers with no more than "authentication failed".
//
// Keys come as PEM (PKCS#8 plain or encrypted by PBES2, PKCS#1 plain or in the
// traditional encryption of OpenSSL) beside a certificate in PEM or DER, or with it in
// one PKCS#12 file. Whether an encrypted file's passphrase is wrong or the file is
// damaged cannot always be told apart; then the error says both.
//
// A private key is never in an error, and an Identity does not print it.
//
// # Tokens
//
// An Identity holds a crypto.Signer, not a key, which may be on a device that signs by
// itself. FromToken finds one by PKCS#11. That is a C library of the device's maker, and
// takes cgo, which the static binary does not have: the build tag pkcs11 adds it, and
// without it FromToken says so.
package credential

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"software.sslmate.com/src/go-pkcs12"
)

// MaxFile is the longest file with certificates or keys that is read, in bytes.
// Real ones have a few thousand.
const MaxFile = 1 << 20

// maxCertificate is the longest certificate the server takes. (Cedar/Protocol.c,
// ServerAccept)
const maxCertificate = 100000

// An Identity proves a user.
type Identity struct {
	Certificate *x509.Certificate
	Signer      crypto.Signer // of the certificate's key
}

// String names the certificate and nothing else.
func (id Identity) String() string {
	if id.Certificate == nil {
		return "no certificate"
	}
	return fmt.Sprintf("certificate of %q", id.Certificate.Subject.String())
}

// GoString is String, so that no verb prints the key.
func (id Identity) GoString() string { return id.String() }

// ErrPassphrase says that a key is encrypted and no passphrase was given.
var ErrPassphrase = errors.New("the private key is encrypted: give its passphrase")

// errWrong is said of the passphrase.
var errWrong = errors.New("the passphrase is wrong, or the file is damaged")

// bits are the sizes of keys that servers take. (Mayaqua/Encrypt.c,
// X509ToX's is_compatible_bit; each tried on the real server)
var bits = []int{1024, 1536, 2048, 3072, 4096}

// FromPEM makes an Identity of a certificate, in PEM or DER, and a key in PEM. The
// certificate file may hold more certificates; the first one that the key fits is the
// user's. The server is sent no other.
func FromPEM(cert, key []byte, passphrase string) (Identity, error) {
	certs, err := certificates(cert)
	if err != nil {
		return Identity{}, fmt.Errorf("certificate: %w", err)
	}
	signer, err := privateKey(key, passphrase)
	if err != nil {
		return Identity{}, fmt.Errorf("private key: %w", err)
	}
	return match(certs, signer)
}

// FromPKCS12 makes an Identity of a PKCS#12 file (.p12, .pfx).
func FromPKCS12(der []byte, passphrase string) (Identity, error) {
	key, first, more, err := decodePKCS12(der, passphrase)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && passphrase == "":
		return Identity{}, ErrPassphrase
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return Identity{}, errWrong
	case errors.As(err, new(pkcs12.NotImplementedError)):
		return Identity{}, fmt.Errorf("is a PKCS#12 file of a kind that is not supported (%w): "+
			"make another with openssl pkcs12 -export -inkey KEY -in CERT", err)
	case err != nil: // what ASN.1 says of it helps nobody
		return Identity{}, errors.New("is no PKCS#12 file with a certificate and its key, or is damaged: " +
			"make one with openssl pkcs12 -export -inkey KEY -in CERT")
	}
	signer, err := usable(key)
	if err != nil {
		return Identity{}, err
	}
	return match(append([]*x509.Certificate{first}, more...), signer)
}

// decodePKCS12 survives the library's panics on damaged files, and its patience: one
// that has the right check sum by our passphrase is not damaged, and that sum's
// iterations are the ones that count.
func decodePKCS12(der []byte, passphrase string) (key any, first *x509.Certificate, more []*x509.Certificate, err error) {
	damaged := errors.New("it is damaged")
	if n := macIterations(der); n < 0 || n > maxIterations {
		return nil, nil, nil, damaged
	}
	defer func() {
		if recover() != nil {
			err = damaged
		}
	}()
	return pkcs12.DecodeChain(der, passphrase)
}

// macIterations returns how much work the check of a PKCS#12 file's sum is, 0 if
// there is none (RFC 7292 §4).
func macIterations(der []byte) int {
	var pfx struct {
		Version int
		Content asn1.RawValue
		Mac     struct {
			Sum        asn1.RawValue
			Salt       []byte
			Iterations int `asn1:"optional,default:1"`
		} `asn1:"optional"`
	}
	if parse(der, &pfx) != nil {
		return 0
	}
	return pfx.Mac.Iterations
}

// match finds the certificate of a key.
func match(certs []*x509.Certificate, signer crypto.Signer) (Identity, error) {
	public := signer.Public().(*rsa.PublicKey) // usable made sure
	for _, c := range certs {
		if public.Equal(c.PublicKey) {
			if len(c.Raw) > maxCertificate {
				return Identity{}, fmt.Errorf("the certificate has %d bytes, and servers take %d", len(c.Raw), maxCertificate)
			}
			return Identity{Certificate: c, Signer: signer}, nil
		}
	}
	return Identity{}, fmt.Errorf("the private key does not belong to the certificate of %q: give the key that it was made with",
		certs[0].Subject.String())
}

// certificates reads one in DER, or all in PEM.
func certificates(b []byte) ([]*x509.Certificate, error) {
	const want = "give an X.509 certificate in PEM (-----BEGIN CERTIFICATE-----) or DER"
	var all []*x509.Certificate
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("is damaged: %w", err)
		}
		all = append(all, c)
	}
	if len(all) > 0 {
		return all, nil
	}
	if c, err := x509.ParseCertificate(b); err == nil {
		return []*x509.Certificate{c}, nil
	}
	return nil, errors.New("there is none in the file: " + want)
}

// privateKey reads the first one in PEM.
func privateKey(b []byte, passphrase string) (crypto.Signer, error) {
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		der, kind, err := decrypt(block, passphrase)
		if err != nil {
			return nil, err
		}
		key, known, err := parseKey(der, kind)
		if !known {
			continue // parameters, a certificate
		}
		if err != nil {
			if isTraditional(block) || block.Type == encryptedPKCS8 {
				return nil, errWrong // the padding looked right by chance
			}
			return nil, errDamaged
		}
		return usable(key)
	}
	if bytes.Contains(b, []byte("OPENSSH PRIVATE KEY")) {
		return nil, errors.New("is in OpenSSH's format: turn a copy into PEM with ssh-keygen -p -m PEM -f COPY")
	}
	return nil, errors.New("there is none in the file: give it in PEM (-----BEGIN PRIVATE KEY-----), or -p12 for a PKCS#12 file")
}

const encryptedPKCS8 = "ENCRYPTED PRIVATE KEY"

// isTraditional tells OpenSSL's old encryption (RFC 1421 headers).
func isTraditional(block *pem.Block) bool { return block.Headers["DEK-Info"] != "" }

// decrypt returns a PEM block's content as it is without encryption.
func decrypt(block *pem.Block, passphrase string) (der []byte, kind string, err error) {
	switch {
	case !isTraditional(block) && block.Type != encryptedPKCS8:
		return block.Bytes, block.Type, nil
	case passphrase == "":
		return nil, "", ErrPassphrase
	case isTraditional(block):
		//lint:ignore SA1019 weak against tampering, but what people have
		der, err = x509.DecryptPEMBlock(block, []byte(passphrase))
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, "", errWrong
		}
		if err != nil {
			return nil, "", errMethod
		}
		return der, block.Type, nil
	}
	der, err = decryptPKCS8(block.Bytes, passphrase)
	return der, "PRIVATE KEY", err
}

// parseKey reads a key of the kind that a PEM block's type says, if it is one.
func parseKey(der []byte, kind string) (key any, known bool, err error) {
	switch kind {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "DSA PRIVATE KEY":
		return nil, true, nil // usable says no
	default:
		return nil, false, nil
	}
	return key, true, err
}

var errNotRSA = errors.New("the private key is no RSA key, and servers take only those: " +
	"have a certificate made for an RSA key of 2048 bits")

// usable refuses keys that no server takes.
func usable(key any) (crypto.Signer, error) {
	private, ok := key.(crypto.Signer)
	if !ok {
		return nil, errNotRSA
	}
	public, ok := private.Public().(*rsa.PublicKey)
	if !ok {
		return nil, errNotRSA
	}
	if n := public.N.BitLen(); !slices.Contains(bits, n) {
		return nil, fmt.Errorf("the private key has %d bits, and servers take only 1024, 1536, 2048, 3072 and 4096: "+
			"have a certificate made for an RSA key of 2048 bits", n)
	}
	return private, nil
}
