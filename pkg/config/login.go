package config

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// settleMethod chooses how the user is proved.
func (l *loader) settleMethod() {
	d := &l.draft
	certificate := l.certificateFlag() != ""
	switch {
	case d.plain && d.anonymous:
		l.problem("anonymous", "sends no password, but -plain-password asks for a way to send one: drop one")
	case certificate && d.anonymous:
		l.problem("anonymous", fmt.Sprintf("proves nothing, but -%s is there to: drop one", l.certificateFlag()))
	case certificate && d.plain:
		l.problem("plain-password", fmt.Sprintf("sends a password, but -%s logs in by a certificate: drop one", l.certificateFlag()))
	case certificate:
		d.Auth.Method = ByCertificate
	case d.plain:
		d.Auth.Method = PlainPassword
	case d.anonymous:
		d.Auth.Method = Anonymous
	}
}

// certificateFlag names what asks for a login by certificate, if anything does.
func (l *loader) certificateFlag() string {
	for _, flag := range []string{"cert", "key", "p12", "pkcs11-module", "pkcs11-token"} {
		if l.inputs[flag].given() {
			return flag
		}
	}
	if l.draft.Auth.Inline.IsSet() {
		return "account"
	}
	return ""
}

// settleLogin finds the secrets of the login.
func (l *loader) settleLogin() {
	d := &l.draft
	if d.Auth.Method == ByCertificate || l.inputs["key-password-file"].given() {
		l.settleSecret(secretPlace{
			flag: "key-password", fileFlag: "key-password-file", credentials: []string{"softether-key-password"},
			into: &d.Auth.KeyPassword, file: d.keyPasswordFile,
		})
	}
	for _, path := range []string{d.Auth.KeyFile, d.Auth.PKCS12File} {
		if path != "" && worldReadable(path) {
			l.note(fmt.Sprintf("%s holds a private key and everyone on this machine can read it: chmod 600 it", path))
		}
	}
	pass, hash := l.highest("pass", "pass-file"), l.highest("pass-hash", "pass-hash-file")
	switch {
	case pass != FromDefault && pass == hash:
		l.problem(l.flagFrom(hash, "pass-hash", "pass-hash-file"), fmt.Sprintf("-%s is given too: drop one of the two", l.flagFrom(pass, "pass", "pass-file")))
		l.failed["pass"] = true // so that nobody complains that it is missing
		return
	case pass > hash:
		d.passHash, d.passHashFile = Secret{}, ""
	case hash > pass:
		d.Auth.Password, d.passFile = Secret{}, ""
		l.settleHash()
		return
	case d.Auth.Method == HashedPassword:
		l.settleHash() // there may be a credential
	}
	if !d.Auth.Hash.IsSet() && (d.Auth.Method == HashedPassword || d.Auth.Method == PlainPassword || l.inputs["pass-file"].given()) {
		l.settleSecret(secretPlace{
			flag: "pass", fileFlag: "pass-file", credentials: []string{"softether-pass", "pass"},
			into: &d.Auth.Password, file: d.passFile, from: &d.Auth.SecretFile,
		})
	}
}

// highest returns the highest place that one of the flags was given at.
func (l *loader) highest(flags ...string) Origin {
	var top Origin
	for _, flag := range flags {
		top = max(top, l.inputs[flag].origin)
	}
	return top
}

// flagFrom names the one of the flags that was given at a place.
func (l *loader) flagFrom(o Origin, flags ...string) string {
	return flags[max(0, slices.IndexFunc(flags, func(flag string) bool { return l.inputs[flag].origin == o }))]
}

// settleHash finds the stored hash, and puts it into the form that Auth has.
func (l *loader) settleHash() {
	d := &l.draft
	flag := l.flagFrom(l.highest("pass-hash", "pass-hash-file"), "pass-hash", "pass-hash-file")
	l.settleSecret(secretPlace{
		flag: "pass-hash", fileFlag: "pass-hash-file", credentials: []string{"softether-pass-hash"},
		into: &d.passHash, file: d.passHashFile, from: &d.Auth.SecretFile,
	})
	if l.failed["pass-hash"] {
		l.failed["pass"] = true
	}
	if !d.passHash.IsSet() {
		return
	}
	var err error
	if d.Auth.Hash, err = parseStoredHash(d.passHash.Reveal()); err != nil {
		l.problem(flag, err.Error())
		l.failed["pass"] = true
	}
}

// parseStoredHash takes 20 bytes in base64, as the official programs' files have
// them, or in hexadecimal. It repeats nothing of them.
func parseStoredHash(s string) (Secret, error) {
	const size = 20
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		b, err = base64.StdEncoding.Strict().DecodeString(s)
	}
	if err != nil || len(b) != size {
		return Secret{}, errors.New("is no password's hash: give what softether-go hash prints")
	}
	return NewSecret(hex.EncodeToString(b)), nil
}

// SecretFiles are the options that name a file with a secret which SecretFlags tells.
var SecretFiles = []string{"pass-file", "pass-hash-file", "key-password-file", "proxy-pass-file", "proxy-url-pass-file"}

// SecretFlags returns the secrets that Settings and Lines do not tell, as flags. They
// are for handing on where nobody else reads, never for a command line.
func (c Config) SecretFlags() (flags []string) {
	for _, s := range []struct {
		flag  string
		value Secret
	}{
		{"pass", c.Auth.Password}, {"pass-hash", c.Auth.Hash}, {"key-password", c.Auth.KeyPassword},
		{"proxy-pass", c.Proxy.Password}, {"proxy-url-pass", c.Way.Proxy.Password},
	} {
		if s.flag == "proxy-url-pass" && c.Way.FromEnv && c.origin(s.flag) == FromDefault {
			continue // it is in HTTPS_PROXY
		}
		if s.value.IsSet() {
			flags = append(flags, "-"+s.flag+"="+s.value.Reveal())
		}
	}
	for _, h := range c.Way.Headers {
		flags = append(flags, "-proxy-header="+h.Name+":"+h.Value.Reveal())
	}
	return flags
}

// origin returns where a setting came from.
func (c Config) origin(name string) Origin {
	for _, s := range c.Settings {
		if s.Name == name {
			return s.Origin
		}
	}
	return FromDefault
}

// check finds what is missing for the method, and what it has no use for.
func (a Auth) check() []problem {
	secrets := []string{"anonymous", "plain-password", "pass", "pass-file", "pass-hash", "pass-hash-file", "cert", "key", "p12", "pkcs11-module", "pkcs11-token", "account"}
	if a.Method == ByCertificate {
		return a.checkCertificate(secrets)
	}
	if a.Token.Object != "" {
		return []problem{{flag: "pkcs11-label", needs: secrets, text: "is for a key on a token: add -pkcs11-module and -pkcs11-token"}}
	}
	switch {
	case a.KeyPassword.IsSet():
		return []problem{{flag: "key-password", needs: secrets, text: "is for a private key, and there is none: add -key and -cert, or -p12"}}
	case a.Method == Anonymous && (a.Password.IsSet() || a.Hash.IsSet()):
		return []problem{{flag: "anonymous", text: "sends no password, but there is one: drop -pass, -pass-file or their variables"}}
	case a.Method == PlainPassword && a.Hash.IsSet():
		return []problem{{flag: "plain-password", text: "sends the password itself, which -pass-hash does not tell: give -pass-file, or drop it"}}
	case a.Method != Anonymous && !a.Password.IsSet() && !a.Hash.IsSet():
		return []problem{{flag: "pass", text: noPassword, needs: []string{"anonymous", "plain-password"}}}
	}
	return nil
}

func (a Auth) checkCertificate(needs []string) (ps []problem) {
	switch t := a.Token; {
	case t.Module != "" && t.Label == "":
		ps = append(ps, problem{flag: "pkcs11-token", needs: needs, text: "missing: -pkcs11-module needs the token's label (pkcs11-tool --list-token-slots)"})
	case t.Module == "" && t.Label != "":
		ps = append(ps, problem{flag: "pkcs11-module", needs: needs, text: "missing: -pkcs11-token needs the library of its maker, such as /usr/lib/softhsm/libsofthsm2.so"})
	case t.Module != "" && (a.KeyFile != "" || a.PKCS12File != ""):
		ps = append(ps, problem{flag: "pkcs11-module", needs: needs, text: "says that the key is on a token, but -key or -p12 names another: drop one"})
	case t.Module != "": // with a certificate or without
	case a.PKCS12File != "" && (a.CertFile != "" || a.KeyFile != ""):
		ps = append(ps, problem{flag: "p12", needs: needs, text: "holds a certificate and its key, but -cert or -key names another: drop one"})
	case a.CertFile != "" && a.KeyFile == "":
		ps = append(ps, problem{flag: "key", needs: needs, text: "missing: -cert needs its private key"})
	case a.CertFile == "" && a.KeyFile != "":
		ps = append(ps, problem{flag: "cert", needs: needs, text: "missing: -key needs its certificate"})
	}
	if a.Password.IsSet() || a.Hash.IsSet() {
		ps = append(ps, problem{flag: "pass", needs: needs, text: "is not sent by who logs in by a certificate: drop one of the two (a key's passphrase is -key-password-file)"})
	}
	return ps
}

// settleTrust finds the file of trust on first use.
func (l *loader) settleTrust() {
	d := &l.draft
	switch {
	case !d.firstUse && d.knownServers != "":
		l.problem("known-servers", "is for -trust-on-first-use: add that, or drop this")
	case !d.firstUse:
	case d.knownServers != "":
		d.Trust.KnownServers = d.knownServers
	default:
		dir, err := os.UserConfigDir()
		if err != nil {
			l.problem("trust-on-first-use", "this user has no directory of settings: give -known-servers FILE")
			return
		}
		d.Trust.KnownServers = filepath.Join(dir, "softether-go", "known_servers")
	}
}

// listed reports whether flag is among the words of a list.
func listed(flag, list string) bool { return slices.Contains(strings.Fields(list), flag) }
