//go:build !pkcs11

package credential

// FromToken fails: this build has no PKCS#11.
func FromToken(Token, []byte) (Identity, error) { return Identity{}, errNoTokens }
