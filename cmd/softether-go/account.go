package main

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"softether-go/pkg/account"
	"softether-go/pkg/config"
	"softether-go/pkg/wire"
)

// importAccount turns an account file of the official client into a config file, with
// the secrets in files of their own beside it.
func importAccount(_ context.Context, args []string, t terminal) error {
	if len(args) == 0 || len(args) > 2 || strings.HasPrefix(args[0], "-") {
		return usageError{errors.New("import takes an account file, and the config file to write: softether-go import office.vpn office.conf")}
	}
	out := strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0])) + ".conf"
	if len(args) == 2 {
		out = args[1]
	}
	a, err := config.ReadAccount(args[0])
	if err != nil {
		return usageError{fmt.Errorf("import: %w", err)}
	}
	out, err = filepath.Abs(out)
	if err != nil {
		return err
	}
	if a.Auth == account.AuthCertificate && (len(a.Certificate) == 0 || a.KeyKind() == "") {
		return usageError{fmt.Errorf("import: %s was exported without its certificate and key: export it anew, with them", args[0])}
	}
	files := newFiles(strings.TrimSuffix(out, filepath.Ext(out)))
	words, left := config.AccountWords(a)
	lines := []string{"# " + plainLine(fmt.Sprintf("From the account %q of the official client.", a.Name))}
	for _, w := range words {
		if slices.Contains(config.SecretFiles, w.Name+"-file") {
			w = config.Word{Name: w.Name + "-file", Value: files.add("."+w.Name, []byte(w.Value+"\n"))}
		}
		line, err := w.Line()
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		lines = append(lines, line)
	}
	if a.Auth == account.AuthCertificate {
		lines = append(lines,
			"cert "+files.add(".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate})),
			"key "+files.add(".key", pem.EncodeToMemory(&pem.Block{Type: a.KeyKind(), Bytes: a.Key})))
	}
	files.list = append(files.list, newFile{out, []byte(strings.Join(lines, "\n") + "\n")})
	if err := files.write(); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	for _, what := range left {
		fmt.Fprintln(t.err, "softether-go: left out:", what)
	}
	if !a.CheckServer {
		fmt.Fprintln(t.err, "softether-go: the account took any server for the right one; here the first one's key is remembered, and no other taken")
	}
	for _, f := range files.list {
		if _, err := fmt.Fprintln(t.out, f.path); err != nil {
			return err
		}
	}
	return nil
}

// plainLine keeps text on its line.
func plainLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// files are to be written together, for the user alone.
type files struct {
	base string
	list []newFile
}

type newFile struct {
	path string
	text []byte
}

func newFiles(base string) *files { return &files{base: base} }

// add plans a file beside the others and returns its path.
func (f *files) add(suffix string, text []byte) string {
	path := f.base + suffix
	f.list = append(f.list, newFile{path, text})
	return path
}

// write makes all of them or none, and replaces nothing.
func (f *files) write() error {
	for i, file := range f.list {
		err := writeNew(file.path, file.text)
		if err == nil {
			continue
		}
		for _, made := range f.list[:i] {
			os.Remove(made.path)
		}
		return err
	}
	return nil
}

// writeNew makes a file that only the user can read. One that is there is an error.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already: remove it, or give another name", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// exportAccount writes the settings as an account file of the official client.
func exportAccount(_ context.Context, args []string, t terminal) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return usageError{errors.New("export takes the account file to write, and settings: softether-go export office.vpn -config office.conf")}
	}
	cfg, err := loadConfig(args[1:], t)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
	a, left, err := accountOf(name, cfg)
	if err != nil {
		return err
	}
	if err := writeNew(args[0], a.Bytes()); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	for _, what := range left {
		fmt.Fprintln(t.err, "softether-go: left out:", what)
	}
	_, err = fmt.Fprintln(t.out, args[0])
	return err
}

// accountOf turns settings into an account, and says what of them has no place in one.
func accountOf(name string, cfg config.Config) (a account.Account, left []string, err error) {
	a = account.Account{
		Name: name, Host: cfg.Server.Host, Port: cfg.Server.Port, Hub: cfg.Server.Hub, User: cfg.Auth.User,
		Retry: int(cfg.Retry.Delay / time.Second), BindAddress: cfg.Way.BindAddress, Bridge: cfg.TAP.Bridge != "", Monitor: cfg.TAP.Monitor,
		CheckServer:   !cfg.Trust.Insecure && cfg.Trust.KnownServers == "",
		MaxConnection: cfg.Links.Count, TTL: int(cfg.Links.TTL / time.Second), Half: cfg.Links.HalfDuplex,
		Compress: cfg.Links.Compress, NoEncrypt: cfg.Links.Cleartext,
	}
	if cfg.Way.Transport == config.RUDP {
		a.PortUDP = cfg.Way.RUDPPort
	}
	if err := accountLogin(&a, cfg.Auth); err != nil {
		return a, nil, err
	}
	left = accountProxy(&a, cfg.Way)
	if len(cfg.Server.Others) > 0 {
		left = append(left, "-host: all but "+cfg.Server.Host)
	}
	for _, s := range cfg.Settings {
		if s.Origin == config.FromDefault || exported(s.Name) || a.PortUDP != 0 && (s.Name == "transport" || s.Name == "rudp-port") {
			continue
		}
		what := "-" + s.Name
		if why := whyLeft[s.Name]; why != "" {
			what += ": " + why
		}
		left = append(left, what)
	}
	return a, left, nil
}

// whyLeft says what to do about trust, without which an account may not work or be
// careless.
var whyLeft = map[string]string{
	"trust-on-first-use": "the official client takes any server until AccountServerCertSet gives it the certificate",
	"pin":                "the official client refuses the server until AccountServerCertSet gives it the certificate",
	"ca":                 "the official client refuses the server until CAAdd gives it the authority",
}

// exported reports whether a setting is in the account, or no matter of one.
func exported(name string) bool {
	return slices.Contains([]string{
		"host", "port", "hub", "user", "pass", "pass-file", "pass-hash", "pass-hash-file", "plain-password", "anonymous",
		"cert", "key", "p12", "key-password", "key-password-file", "insecure", "known-servers", "account", "config", "mode",
		"proxy", "proxy-url-pass", "proxy-url-pass-file", "proxy-header", "bind-address", "bridge", "monitor", "tap",
		"connections", "half-duplex", "connection-ttl", "compress", "insecure-no-encryption",
		"reconnect-delay", "log-level", "log-json",
	}, name)
}

func accountLogin(a *account.Account, auth config.Auth) error {
	switch auth.Method {
	case config.HashedPassword:
		a.Auth, a.Hash = account.AuthPassword, new([wire.HashLen]byte)
		*a.Hash = wire.PasswordHash(auth.User, auth.Password.Reveal())
		if auth.Hash.IsSet() {
			if _, err := hex.Decode(a.Hash[:], []byte(auth.Hash.Reveal())); err != nil {
				return usageError{errors.New("-pass-hash: is no hash")} // config has checked it
			}
		}
	case config.PlainPassword:
		a.Auth, a.Password = account.AuthPlain, auth.Password.Reveal()
	case config.Anonymous:
		a.Auth = account.AuthAnonymous
	case config.ByCertificate:
		id, err := identity(auth)
		if err != nil {
			return usageError{err}
		}
		key, ok := id.Signer.(*rsa.PrivateKey)
		if !ok {
			return usageError{errors.New("export: the private key cannot be had from where it is kept")}
		}
		a.Auth, a.Certificate, a.Key = account.AuthCertificate, id.Certificate.Raw, x509.MarshalPKCS1PrivateKey(key)
	}
	return nil
}

var proxyKinds = map[string]account.ProxyKind{
	"http": account.ProxyHTTP, "socks4": account.ProxySOCKS4, "socks4a": account.ProxySOCKS4,
	"socks5": account.ProxySOCKS5, "socks5h": account.ProxySOCKS5,
}

func accountProxy(a *account.Account, w config.Way) (left []string) {
	kind, known := proxyKinds[w.Proxy.Scheme]
	if !known || w.FromEnv {
		if w.Proxy.Scheme != "" && !w.FromEnv {
			left = append(left, "-proxy: the official client knows none by "+w.Proxy.Scheme)
		}
		return left
	}
	a.Proxy = account.Proxy{Kind: kind, Host: w.Proxy.Host, Port: w.Proxy.Port, User: w.Proxy.User, Password: w.Proxy.Password.Reveal()}
	for _, h := range w.Headers {
		a.Headers += h.Name + ": " + h.Value.Reveal() + "\r\n"
	}
	return left
}
