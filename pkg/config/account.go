package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"softether-go/pkg/account"
)

// A Word is one setting as a config file has it. Some values are secrets.
type Word struct {
	Name, Value string
	Secret      bool
}

// accountGroups are what an account says that goes together: if one flag of a group
// is given, the account has no say in any.
var accountGroups = []string{
	"host port",
	"pass pass-file pass-hash pass-hash-file plain-password anonymous cert key p12 pkcs11-module pkcs11-token",
	"pin ca insecure trust-on-first-use",
	portGroup,
	"proxy proxy-url-pass proxy-url-pass-file proxy-header proxy-from-env",
}

// portGroup says how the host of an account is reached, and of no other host.
const portGroup = "transport rudp-port"

// readAccount fills what is still open from the account file, if there is one.
func (l *loader) readAccount() {
	words := l.inputs["account"].words
	if len(words) == 0 || words[len(words)-1] == "" {
		return
	}
	path := words[len(words)-1]
	a, err := ReadAccount(path)
	if err != nil {
		l.problem("account", err.Error())
		for _, flag := range []string{"host", "user", "pass"} {
			l.failed[flag] = true // so that nobody complains that they are missing
		}
		return
	}
	l.now = place{FromAccount, path}
	taken := l.takenGroups()
	if a.Monitor && !l.canMonitor() {
		a.Monitor = false
		l.note(fmt.Sprintf("-account %s: left out: monitoring mode, which is for a network interface (-tap) that nothing is sent by", path))
	}
	said, left := AccountWords(a)
	for _, w := range said {
		if !l.inputs[w.Name].given() && !slices.ContainsFunc(taken, func(group string) bool { return listed(w.Name, group) }) {
			_ = l.flags.Set(w.Name, w.Value) // an input refuses nothing
		}
	}
	if a.Auth == account.AuthCertificate && !slices.ContainsFunc(taken, func(group string) bool { return listed("cert", group) }) {
		l.draft.Auth.Inline = inlinePEM(a)
	}
	if len(left) > 0 {
		l.note(fmt.Sprintf("-account %s: left out: %s", path, strings.Join(left, "; ")))
	}
	l.noteReadable(path)
}

func (l *loader) takenGroups() (taken []string) {
	for _, group := range accountGroups {
		if slices.ContainsFunc(strings.Fields(group), l.decides) {
			taken = append(taken, group)
		}
	}
	if slices.Contains(taken, accountGroups[0]) {
		taken = append(taken, portGroup)
	}
	return taken
}

// canMonitor reports whether there will be an interface that only shows frames, as an
// account in monitoring mode wants it. Proxies, bridges and commands send; a command that uses the VPN itself heeds no
// such setting anyway.
func (l *loader) canMonitor() bool {
	if l.src.Run || l.decides("bridge") {
		return false
	}
	if words := l.inputs["mode"].words; len(words) > 0 && words[len(words)-1] != ModeAuto.String() {
		return words[len(words)-1] == ModeTAP.String()
	}
	return !slices.ContainsFunc(modeFlags[1:], func(flag string) bool { return l.inputs[flag].given() })
}

// decides reports whether an option was given, and not just as a switch that is off.
func (l *loader) decides(flag string) bool {
	in := l.inputs[flag]
	return in.given() && (!in.isSwitch || in.words[len(in.words)-1] != "false")
}

// ReadAccount reads an account file. Its error names the file.
func ReadAccount(path string) (account.Account, error) {
	f, err := os.Open(path)
	if err != nil {
		return account.Account{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, account.MaxFile+1))
	if err != nil {
		return account.Account{}, err
	}
	a, err := account.Parse(b)
	if err != nil {
		return a, fmt.Errorf("%s %w", path, err)
	}
	return a, nil
}

// inlinePEM returns an account's certificate and key as files would hold them.
func inlinePEM(a account.Account) Secret {
	var text []byte
	if len(a.Certificate) > 0 {
		text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate})
	}
	if kind := a.KeyKind(); kind != "" {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: a.Key})...)
	}
	return NewSecret(string(text))
}

// AccountWords returns an account as settings, and in words what of it has none. A
// certificate and its key are not among them.
func AccountWords(a account.Account) (words []Word, left []string) {
	say := func(name, value string) {
		o, known := findOption(name)
		if known && value != "" {
			words = append(words, Word{name, value, o.value.secret})
		}
	}
	say("host", a.Host)
	say("port", strconv.Itoa(int(a.Port)))
	if a.Hint != "" && !slices.Contains(plainTCP, strings.ToLower(a.Hint)) {
		left = append(left, "NAT traversal to the server (the hint after the host's slash)")
	}
	if a.PortUDP != 0 {
		say("transport", RUDP.String())
		say("rudp-port", strconv.Itoa(int(a.PortUDP)))
	}
	say("hub", a.Hub)
	say("user", a.User)
	switch a.Auth {
	case account.AuthPassword:
		if a.Hash != nil {
			say("pass-hash", hex.EncodeToString(a.Hash[:]))
		}
	case account.AuthPlain:
		say("plain-password", "true")
		say("pass", a.Password)
	case account.AuthAnonymous:
		say("anonymous", "true")
	}
	if a.Retry > 0 {
		say("reconnect-delay", fmt.Sprintf("%ds", a.Retry))
	}
	if a.BindAddress.IsValid() {
		say("bind-address", a.BindAddress.String())
	}
	left = append(left, accountTrust(a, say)...)
	left = append(left, accountProxy(a, say)...)
	return words, append(left, accountLeft(a, say)...)
}

// accountTrust never trusts less carefully than the account did. Where the account
// looked at nothing, the first certificate is remembered, which breaks no connection
// that worked.
func accountTrust(a account.Account, say func(name, value string)) (left []string) {
	switch {
	case !a.CheckServer:
		say("trust-on-first-use", "true")
	case len(a.ServerCertificate) > 0:
		say("pin", Pin(sha256.Sum256(a.ServerCertificate)).String())
	default:
		left = append(left, "the official client's own list of authorities (this system's are trusted; -ca names others)")
	}
	return left
}

var proxySchemes = map[account.ProxyKind]string{account.ProxyHTTP: "http", account.ProxySOCKS4: "socks4", account.ProxySOCKS5: "socks5h"}

func accountProxy(a account.Account, say func(name, value string)) (left []string) {
	if a.Proxy.Kind == account.ProxyNone {
		return nil
	}
	p := ProxyURL{Scheme: proxySchemes[a.Proxy.Kind], Host: a.Proxy.Host, Port: a.Proxy.Port, User: a.Proxy.User}
	if p.Port == 0 {
		p.Port = proxyPorts[p.Scheme]
	}
	say("proxy", p.String())
	switch {
	case a.Proxy.Password == "" || a.Proxy.User == "":
	case a.Proxy.Kind == account.ProxySOCKS4:
		left = append(left, "the proxy's password, which SOCKS4 does not carry")
	default:
		say("proxy-url-pass", a.Proxy.Password)
	}
	if a.Proxy.Kind == account.ProxyHTTP {
		for line := range strings.SplitSeq(strings.ReplaceAll(a.Headers, "\r", "\n"), "\n") {
			say("proxy-header", strings.TrimSpace(line))
		}
	}
	return left
}

// accountLeft is for what goes by its number or not at all.
func accountLeft(a account.Account, say func(name, value string)) (left []string) {
	_, connections := findOption("connections")
	_, half := findOption("half-duplex")
	_, compress := findOption("compress")
	if a.MaxConnection > 1 { // one is what an account has that nobody changed
		say("connections", strconv.Itoa(a.MaxConnection))
	}
	if a.TTL > 0 {
		say("connection-ttl", fmt.Sprintf("%ds", a.TTL))
	}
	if a.NoUDP {
		say("udp", "off")
	}
	for _, row := range []struct {
		asked bool
		flag  string
		has   bool
		what  string
	}{
		{a.MaxConnection > 1, "", connections, fmt.Sprintf("%d TCP connections at once", a.MaxConnection)},
		{a.Half, "half-duplex", half, "one-way TCP connections"},
		{a.Compress, "compress", compress, "compression"},
		{a.NoEncrypt, "", false, "a session without encryption"},
		{a.Bridge, "", false, "bridge mode (-bridge NAME has it)"},
		{a.Monitor, "monitor", true, "monitoring mode"},
	} {
		switch {
		case !row.asked:
		case row.has && row.flag != "":
			say(row.flag, "true")
		case !row.has:
			left = append(left, row.what)
		}
	}
	return left
}

// Line returns the word as a line of a config file. Its error does not repeat the
// value.
func (w Word) Line() (string, error) {
	line := w.Name + " " + w.Value
	if name, value, err := parseLine(line); err != nil || name != w.Name || value != w.Value {
		return "", fmt.Errorf("%s: its value cannot stand in a config file: it holds what begins a comment, or a control character", w.Name)
	}
	return line, nil
}
