package wire

import (
	"encoding/hex"
	"testing"
)

// The vectors are of MS-NLMP's world: any NT hash calculator agrees.
func TestNTHash(t *testing.T) {
	for password, want := range map[string]string{
		"":         "31d6cfe0d16ae931b73c59d7e0c089c0",
		"password": "8846f7eaee8fb117ad06bdd830b7586c",
	} {
		sum := NTHash(password)
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%q: got %s, want %s", password, got, want)
		}
	}
}

func TestAPasswordChangeCarriesProofAndHashesOnly(t *testing.T) {
	change := PasswordChange{Hub: "HUB", User: "bob", New: PasswordHash("bob", "n3w"), NewNT: NTHash("n3w")}
	change.Old = AnswerChallenge(PasswordHash("bob", "secret"), make([]byte, HashLen))
	p := change.Pack()
	if p.Str("method") != MethodPassword || p.Str("hubname") != "HUB" || p.Str("username") != "bob" {
		t.Errorf("method %q, hub %q, user %q", p.Str("method"), p.Str("hubname"), p.Str("username"))
	}
	for name, want := range map[string][]byte{"secure_old_password": change.Old[:], "new_password": change.New[:], "new_password_ntlm": change.NewNT[:]} {
		if got := p.Data(name); string(got) != string(want) {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
}

func TestACertificateLoginIsReadAsItWasSent(t *testing.T) {
	sent := Login{Hub: "HUB", User: "bob", Auth: Certificate, Cert: []byte("der"), Sign: []byte("signature")}
	got, err := ParseLogin(sent.Pack())
	if err != nil || got.Auth != Certificate || string(got.Cert) != "der" || string(got.Sign) != "signature" {
		t.Errorf("got %+v, %v", got, err)
	}
}
