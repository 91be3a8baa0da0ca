package credential

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
)

// Encrypted PKCS#8 by PBES2 (RFC 8018 §6.2), as openssl pkcs8 and genpkey write it.
// The libraries for it that we know panic on damaged files, know SHA-1 and SHA-256
// alone, or follow any number of iterations; the parts are the standard library's.

// maxIterations bounds the time that a file can cost: about ten seconds. OpenSSL's
// default is 2048, careful people take a million.
const maxIterations = 10_000_000

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

// prfs by object identifier (RFC 8018 §B.1.2).
var prfs = map[string]func() hash.Hash{
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.8":  sha256.New224,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

// A scheme is a block cipher in CBC mode.
type scheme struct {
	keyLen int
	block  func(key []byte) (cipher.Block, error)
}

// schemes by object identifier (RFC 8018 §B.2).
var schemes = map[string]scheme{
	"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
}

type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Scheme pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLen     int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

var (
	errDamaged = errors.New("is damaged")
	errMethod  = errors.New("is encrypted in a way that is not supported: " +
		"convert it with openssl pkcs8 -topk8 -v2 aes256 -in KEY -out NEW")
)

// decryptPKCS8 returns the PrivateKeyInfo inside.
func decryptPKCS8(der []byte, passphrase string) ([]byte, error) {
	var key encryptedKey
	if err := parse(der, &key); err != nil {
		return nil, err
	}
	if !key.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, errMethod
	}
	var params pbes2Params
	if err := parse(key.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, err
	}
	s, known := schemes[params.Scheme.Algorithm.String()]
	if !known {
		return nil, errMethod
	}
	secret, err := deriveKey(params.KDF, passphrase, s.keyLen)
	if err != nil {
		return nil, err
	}
	block, err := s.block(secret)
	if err != nil {
		return nil, err
	}
	var iv []byte
	if err := parse(params.Scheme.Parameters.FullBytes, &iv); err != nil {
		return nil, err
	}
	if len(iv) != block.BlockSize() || len(key.Data) == 0 || len(key.Data)%block.BlockSize() != 0 {
		return nil, errDamaged
	}
	plain := make([]byte, len(key.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, key.Data)
	return unpad(plain, block.BlockSize())
}

// parse wants v and nothing behind it.
func parse(der []byte, v any) error {
	if rest, err := asn1.Unmarshal(der, v); err != nil || len(rest) > 0 {
		return errDamaged
	}
	return nil
}

func deriveKey(kdf pkix.AlgorithmIdentifier, passphrase string, length int) ([]byte, error) {
	if !kdf.Algorithm.Equal(oidPBKDF2) {
		return nil, errMethod
	}
	var params pbkdf2Params
	if err := parse(kdf.Parameters.FullBytes, &params); err != nil {
		return nil, err
	}
	prf := sha1.New // what a missing one stands for
	if oid := params.PRF.Algorithm; len(oid) > 0 {
		if prf = prfs[oid.String()]; prf == nil {
			return nil, errMethod
		}
	}
	if params.Iterations < 1 || params.Iterations > maxIterations || params.KeyLen != 0 && params.KeyLen != length {
		return nil, errDamaged
	}
	return pbkdf2.Key(prf, passphrase, params.Salt, params.Iterations, length)
}

// unpad takes PKCS#7's padding off (RFC 8018 §6.1.1). A wrong passphrase shows here,
// but for one time in 256.
func unpad(b []byte, size int) ([]byte, error) {
	n := int(b[len(b)-1])
	if n == 0 || n > size {
		return nil, errWrong
	}
	text, padding := b[:len(b)-n], b[len(b)-n:]
	for _, c := range padding {
		if int(c) != n {
			return nil, errWrong
		}
	}
	return text, nil
}
