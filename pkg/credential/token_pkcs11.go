//go:build pkcs11

package credential

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// FromToken makes an Identity of a key on a token and its certificate, which is on the
// token too or in cert, as FromPEM takes it. The token stays open for the life of the
// process. It is to be called once: a wrong PIN counts, and tokens lock after a few.
func FromToken(t Token, cert []byte) (Identity, error) {
	if t.PIN == "" {
		return Identity{}, ErrPassphrase
	}
	var certs []*x509.Certificate
	if cert != nil {
		var err error
		if certs, err = certificates(cert); err != nil {
			return Identity{}, fmt.Errorf("certificate: %w", err)
		}
	}
	ctx, err := crypto11.Configure(&crypto11.Config{Path: t.Module, TokenLabel: t.Label, Pin: t.PIN})
	if err != nil {
		return Identity{}, explainToken(t, err)
	}
	id, err := onToken(ctx, t, certs)
	if err != nil {
		ctx.Close()
	}
	return id, err
}

// onToken finds a key that has a certificate.
func onToken(ctx *crypto11.Context, t Token, certs []*x509.Certificate) (Identity, error) {
	keys, err := tokenKeys(ctx, t.Object)
	if err != nil {
		return Identity{}, explainToken(t, err)
	}
	if certs == nil {
		pairs, err := ctx.FindAllPairedCertificates()
		if err != nil {
			return Identity{}, explainToken(t, err)
		}
		for _, p := range pairs {
			if p.Leaf != nil {
				certs = append(certs, p.Leaf)
			}
		}
		if len(certs) == 0 {
			return Identity{}, fmt.Errorf("the token %q has no certificate beside a key: give it by -cert FILE", t.Label)
		}
	}
	for _, key := range keys {
		signer, e := usable(key)
		if e == nil {
			var id Identity
			if id, e = match(certs, signer); e == nil {
				return id, nil
			}
		}
		err = e
	}
	return Identity{}, err
}

// tokenKeys returns the keys of a label, or all.
func tokenKeys(ctx *crypto11.Context, object string) (keys []crypto.Signer, err error) {
	var found []crypto11.Signer
	if object == "" {
		found, err = ctx.FindAllKeyPairs()
	} else {
		found, err = ctx.FindKeyPairs(nil, []byte(object))
	}
	for _, k := range found {
		keys = append(keys, k)
	}
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("it holds no key %q with its public half; is its label right (pkcs11-tool --list-objects)?", object)
	}
	return keys, err
}

// explainToken says in one line what is wrong, and repeats no PIN.
func explainToken(t Token, err error) error {
	var code pkcs11.Error
	if errors.As(err, &code) {
		switch code {
		case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE:
			return fmt.Errorf("the PIN of the token %q is wrong: correct it before the next try, as tokens lock after a few", t.Label)
		case pkcs11.CKR_PIN_LOCKED:
			return fmt.Errorf("the token %q is locked after too many wrong PINs: have it unlocked by its PUK or issuer", t.Label)
		}
	}
	return fmt.Errorf("token %q of %s: %w", t.Label, t.Module, err)
}
