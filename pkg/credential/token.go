package credential

import "errors"

// A Token says where a private key is that does not leave its device.
type Token struct {
	Module string // the device's PKCS#11 library, a path
	Label  string // of the token
	Object string // label of the key; empty if any will do that has a certificate
	PIN    string
}

// errNoTokens is what a build without cgo says.
var errNoTokens = errors.New("this build knows no PKCS#11, which takes a C library: use one made by make build-pkcs11, or a key in a file")
