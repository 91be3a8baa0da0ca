package credential

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files in testdata are OpenSSL's and ssh-keygen's; their passphrase is geheim.
const passphrase = "geheim"

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkSigns wants the identity's signature to fit its certificate, as the server checks it.
func checkSigns(t *testing.T, id Identity) {
	t.Helper()
	sum := sha1.Sum([]byte("challenge"))
	sign, err := id.Signer.Sign(rand.Reader, sum[:], crypto.SHA1)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(id.Certificate.PublicKey.(*rsa.PublicKey), crypto.SHA1, sum[:], sign); err != nil {
		t.Error(err)
	}
}

func TestKeysOfEveryKindSign(t *testing.T) {
	for name, passphrase := range map[string]string{
		"pkcs8.pem": "", "pkcs1.pem": "", "traditional-aes128.pem": passphrase, "traditional-des3.pem": passphrase,
		"pbes2-aes256-sha256.pem": passphrase, "pbes2-aes128-sha512.pem": passphrase, "pbes2-des3-sha1.pem": passphrase,
	} {
		for _, cert := range []string{"cert.pem", "cert.der"} {
			t.Run(name+" "+cert, func(t *testing.T) {
				id, err := FromPEM(file(t, cert), file(t, name), passphrase)
				if err != nil {
					t.Fatal(err)
				}
				checkSigns(t, id)
			})
		}
	}
	for name, passphrase := range map[string]string{"modern.p12": passphrase, "legacy.p12": passphrase, "empty.p12": ""} {
		t.Run(name, func(t *testing.T) {
			id, err := FromPKCS12(file(t, name), passphrase)
			if err != nil {
				t.Fatal(err)
			}
			checkSigns(t, id)
		})
	}
	t.Run("a chain and a key in one file, the user's certificate last", func(t *testing.T) {
		all := bytes.Join([][]byte{file(t, "pkcs8.pem"), file(t, "ec-cert.pem"), file(t, "cert.pem")}, nil)
		id, err := FromPEM(all, all, "")
		if err != nil || id.Certificate.Subject.CommonName != "alice" {
			t.Fatalf("got %v, %v", id, err)
		}
		checkSigns(t, id)
	})
}

func TestWhatServersDoNotTakeIsRefusedByName(t *testing.T) {
	cut := func(name string) []byte { b := file(t, name); return b[:len(b)/2] }
	damage := func(name string) []byte {
		b := bytes.Clone(file(t, name))
		middle := bytes.IndexByte(b, '\n') + 70 // in the base64
		b[middle], b[middle+1], b[middle+2], b[middle+3] = 'A', 'A', 'A', 'A'
		return b
	}
	for _, row := range []struct {
		name       string
		cert, key  []byte
		passphrase string
		want       string
	}{
		{"an EC key", file(t, "ec-cert.pem"), file(t, "ec.pem"), "", "no RSA key"},
		{"an EC key in SEC 1's form", file(t, "ec-cert.pem"), file(t, "ec-sec1.pem"), "", "no RSA key"},
		{"an Ed25519 key", file(t, "cert.pem"), file(t, "ed25519.pem"), "", "no RSA key"},
		{"a size of its own", file(t, "cert.pem"), file(t, "rsa2056.pem"), "", "2056 bits, and servers take only 1024"},
		{"OpenSSH's format", file(t, "cert.pem"), file(t, "openssh.pem"), "", "ssh-keygen -p -m PEM"},
		{"another key", file(t, "cert.pem"), file(t, "other.pem"), "", `does not belong to the certificate of "CN=alice"`},
		{"certificate and key exchanged", file(t, "pkcs8.pem"), file(t, "cert.pem"), "", "certificate: there is none"},
		{"a certificate as the key", file(t, "cert.pem"), file(t, "cert.pem"), "", "private key: there is none"},
		{"an empty key file", file(t, "cert.pem"), nil, "", "private key: there is none"},
		{"an empty certificate file", nil, file(t, "pkcs8.pem"), "", "certificate: there is none"},
		{"half a certificate", cut("cert.pem"), file(t, "pkcs8.pem"), "", "certificate: there is none"},
		{"half a key", file(t, "cert.pem"), cut("pkcs8.pem"), "", "private key: there is none"},
		{"a damaged certificate", damage("cert.pem"), file(t, "pkcs8.pem"), "", "certificate: is damaged"},
		{"a damaged key", file(t, "cert.pem"), damage("pkcs1.pem"), "", "private key: is damaged"},
		{"a damaged encrypted key", file(t, "cert.pem"), damage("pbes2-aes256-sha256.pem"), passphrase, "damaged"},
		{"no passphrase", file(t, "cert.pem"), file(t, "pbes2-aes256-sha256.pem"), "", "give its passphrase"},
		{"no passphrase, traditional", file(t, "cert.pem"), file(t, "traditional-des3.pem"), "", "give its passphrase"},
		{"a wrong passphrase", file(t, "cert.pem"), file(t, "pbes2-aes256-sha256.pem"), "falsch", "passphrase is wrong"},
		{"a wrong passphrase, traditional", file(t, "cert.pem"), file(t, "traditional-aes128.pem"), "falsch", "passphrase is wrong"},
		{"scrypt", file(t, "cert.pem"), file(t, "scrypt.pem"), passphrase, "convert it with openssl pkcs8 -topk8"},
		{"PBES1", file(t, "cert.pem"), file(t, "pbes1.pem"), passphrase, "convert it with openssl pkcs8 -topk8"},
	} {
		t.Run(row.name, func(t *testing.T) {
			id, err := FromPEM(row.cert, row.key, row.passphrase)
			checkRefusal(t, id, err, row.want)
		})
	}
	for _, row := range []struct {
		name       string
		file       []byte
		passphrase string
		want       string
	}{
		{"an EC key", file(t, "ec.p12"), passphrase, "no RSA key"},
		{"no passphrase", file(t, "modern.p12"), "", "give its passphrase"},
		{"a wrong passphrase", file(t, "modern.p12"), "falsch", "passphrase is wrong"},
		{"a wrong passphrase, old encryption", file(t, "legacy.p12"), "falsch", "passphrase is wrong"},
		{"half a file", cut("modern.p12"), passphrase, "openssl pkcs12 -export"},
		{"PEM", file(t, "cert.pem"), "", "openssl pkcs12 -export"},
		{"nothing", nil, "", "openssl pkcs12 -export"},
	} {
		t.Run("PKCS#12: "+row.name, func(t *testing.T) {
			id, err := FromPKCS12(row.file, row.passphrase)
			checkRefusal(t, id, err, row.want)
		})
	}
}

func checkRefusal(t *testing.T, id Identity, err error, want string) {
	t.Helper()
	if err == nil || id.Signer != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, %v; want one line with %q", id, err, want)
	}
}

// About one wrong passphrase in 256 leaves what looks like padding, as this one does.
// It may not pass for anything but a wrong passphrase.
func TestAWrongPassphraseIsNotTakenForDamage(t *testing.T) {
	const name, lucky = "pbes2-des3-sha1.pem", "falsch161"
	if plain, err := decryptPKCS8(pemBytes(t, name), lucky); err != nil {
		t.Fatalf("the padding of %q does not look right: %v", plain, err)
	}
	for _, wrong := range []string{lucky, "falsch162"} {
		if _, err := FromPEM(file(t, "cert.pem"), file(t, name), wrong); !errors.Is(err, errWrong) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestWorkIsBounded(t *testing.T) {
	if n := macIterations(file(t, "modern.p12")); n != 2048 {
		t.Errorf("the iterations of OpenSSL's PKCS#12 file: got %d, want 2048", n)
	}
	if n, ok := iterations(pemBytes(t, "pbes2-des3-sha1.pem")); !ok || n != 2048 {
		t.Errorf("the iterations of OpenSSL's key: got %d, want 2048", n)
	}
	der := bytes.Replace(pemBytes(t, "pbes2-des3-sha1.pem"), []byte{2, 2, 8, 0}, []byte{2, 2, 0x7f, 0xff}, 1)
	if n, _ := iterations(der); n != 0x7fff {
		t.Fatalf("found no iterations to change: %d", n)
	}
	if _, err := decryptPKCS8(bytes.Replace(der, []byte{2, 2, 0x7f, 0xff}, []byte{2, 2, 0xff, 0xff}, 1), passphrase); !errors.Is(err, errDamaged) {
		t.Errorf("fewer than no iterations: %v", err)
	}
}

func TestAnIdentityPrintsNoKey(t *testing.T) {
	id, err := FromPEM(file(t, "cert.pem"), file(t, "pkcs8.pem"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, id); got != `certificate of "CN=alice"` {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func FuzzFromPEM(f *testing.F) {
	for _, name := range []string{"pkcs8.pem", "pkcs1.pem", "ec.pem", "traditional-des3.pem", "scrypt.pem", "pbes1.pem", "openssh.pem"} {
		f.Add(file(f, "cert.pem"), file(f, name), passphrase)
	}
	f.Fuzz(func(t *testing.T, cert, key []byte, passphrase string) {
		id, err := FromPEM(cert, key, passphrase)
		if (err == nil) != (id.Signer != nil && id.Certificate != nil) {
			t.Errorf("got %v, %v", id, err)
		}
	})
}

func FuzzDecryptPKCS8(f *testing.F) {
	for _, name := range []string{"pbes2-aes256-sha256.pem", "pbes2-aes128-sha512.pem", "pbes2-des3-sha1.pem"} {
		f.Add(pemBytes(f, name))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if i, known := iterations(der); known && i > 10000 {
			t.Skip("slow by design")
		}
		if plain, err := decryptPKCS8(der, passphrase); err == nil && len(plain) >= len(der) {
			t.Errorf("%d bytes came out of %d", len(plain), len(der))
		}
	})
}

func FuzzFromPKCS12(f *testing.F) {
	for _, name := range []string{"modern.p12", "legacy.p12", "empty.p12", "ec.p12"} {
		f.Add(file(f, name))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if macIterations(der) > 10000 {
			t.Skip("slow by design")
		}
		id, err := FromPKCS12(der, passphrase)
		if (err == nil) != (id.Signer != nil && id.Certificate != nil) {
			t.Errorf("got %v, %v", id, err)
		}
	})
}

func pemBytes(t testing.TB, name string) []byte {
	t.Helper()
	block, _ := pem.Decode(file(t, name))
	if block == nil {
		t.Fatalf("%s holds no PEM", name)
		return nil
	}
	return block.Bytes
}

// iterations reads how much work a file asks for.
func iterations(der []byte) (int, bool) {
	var key encryptedKey
	var params pbes2Params
	var kdf pbkdf2Params
	if parse(der, &key) != nil || parse(key.Algorithm.Parameters.FullBytes, &params) != nil || parse(params.KDF.Parameters.FullBytes, &kdf) != nil {
		return 0, false
	}
	return kdf.Iterations, true
}
