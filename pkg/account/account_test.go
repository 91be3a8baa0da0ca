package account

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"softether-go/pkg/wire"
)

// The files in testdata are what Debian's vpncmd 5.01.9674 (64-bit) wrote by
// AccountExport, from accounts made by AccountCreate and the commands of its kind.
func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var compare = []cmp.Option{
	cmpopts.EquateComparable(netip.Addr{}),
	cmpopts.IgnoreFields(Account{}, "Certificate", "Key", "ServerCertificate", "Hash"),
}

func TestFilesOfTheOfficialClientAreRead(t *testing.T) {
	for _, row := range []struct {
		name string
		want Account
	}{
		{"hashed", Account{Name: "hashed", Host: "vpn.example.com", Port: 443, Hub: "VPN", User: "alice",
			Auth: AuthPassword, MaxConnection: 1, Retry: 15}},
		{"plain", Account{Name: "plain", Host: "vpn.example.com", Port: 992, Hub: "VPN", User: "alice",
			Auth: AuthPlain, Password: "p4ss w0rd", MaxConnection: 1, Retry: 15,
			Proxy: Proxy{ProxyHTTP, "proxy.example.com", 3128, "puser", "pr0xy $ pass"}}},
		{"anonymous", Account{Name: "anon", Host: "vpn.example.com", Port: 5555, Hub: "VPN", User: "guest",
			Auth: AuthAnonymous, MaxConnection: 1, Retry: 15, CheckServer: true,
			Proxy: Proxy{ProxySOCKS4, "10.1.2.3", 1080, "puser", "x"}}},
		{"certificate", Account{Name: "cert", Host: "vpn.example.com", Port: 443, Hub: "VPN", User: "carol",
			Auth: AuthCertificate, MaxConnection: 8, TTL: 300, Half: true, Bridge: true, NoUDP: true, Retry: 30}},
		{"umlaut", Account{Name: "Größe 5", Host: "vpn.example.com", Port: 443, Hub: "VPN", User: "alice",
			Auth: AuthPlain, Password: "grüße", MaxConnection: 1, Retry: 15}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := Parse(file(t, row.name+".vpn"))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(row.want, got, compare...); d != "" {
				t.Error(d)
			}
			if (got.Hash != nil) != (row.want.Auth == AuthPassword) || (len(got.Certificate) > 0) != (row.want.Auth == AuthCertificate) {
				t.Errorf("hash %v, a certificate of %d bytes", got.Hash, len(got.Certificate))
			}
			if kind := got.KeyKind(); (kind == "RSA PRIVATE KEY") != (row.want.Auth == AuthCertificate) {
				t.Errorf("the kind of the key: %q", kind)
			}
			if (len(got.ServerCertificate) > 0) != row.want.CheckServer {
				t.Errorf("a server's certificate of %d bytes", len(got.ServerCertificate))
			}
			again, err := Parse(got.Bytes())
			if err != nil {
				t.Fatalf("our own file: %v", err)
			}
			if d := cmp.Diff(got, again, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("our own file says something else: %s", d)
			}
		})
	}
	got, err := Parse(file(t, "hashed.vpn"))
	if want := wire.PasswordHash("alice", "p4ss w0rd"); err != nil || got.Hash == nil || *got.Hash != want {
		t.Errorf("the hash: got %x, %v, want %x", got.Hash, err, want)
	}
}

// minimal is a file with the least that is needed, and auth in ClientAuth.
func minimal(auth string) string {
	return "declare root\n{\ndeclare ClientAuth\n{\nstring Username u\n" + auth + "\n}\n" +
		"declare ClientOption\n{\nstring Hostname h\nuint Port 443\nstring HubName VPN\n}\n}\n"
}

func encrypted(key []byte, password string) string {
	return "uint AuthType 2\nbyte EncryptedPassword " + escape(base64.StdEncoding.EncodeToString(crypt(key, []byte(password))))
}

func TestSecretsOfBothKindsOfProgramsAreRead(t *testing.T) {
	texts := []string{"", "correct horse battery staple", "grüße aus dem Netz", "€", "😀x", strings.Repeat("x", maxText)}
	for r := ' '; r < 0x400; r++ {
		if unicode.IsPrint(r) {
			texts = append(texts, string(r), string(r)+"a", "a"+string(r))
		}
	}
	for _, text := range texts {
		for name, key := range map[string][]byte{"64 bits": key64, "32 bits": key32} {
			a, err := Parse([]byte(minimal(encrypted(key, text))))
			if err != nil || a.Password != text {
				t.Fatalf("%s: got %q, %v, want %q", name, a.Password, err, text)
			}
		}
	}
}

func TestTheUDPPortIsKept(t *testing.T) {
	a, err := Parse(bytes.Replace(file(t, "hashed.vpn"), []byte("uint PortUDP 0"), []byte("uint PortUDP 4500"), 1))
	if err != nil || a.PortUDP != 4500 {
		t.Fatalf("port %d, %v", a.PortUDP, err)
	}
	if again, err := Parse(a.Bytes()); err != nil || again.PortUDP != 4500 {
		t.Errorf("written and read again: port %d, %v", again.PortUDP, err)
	}
}

func TestAnExportWithoutSecretsHasNone(t *testing.T) {
	a, err := Parse([]byte(minimal("uint AuthType 1\nbyte HashedPassword " + base64.StdEncoding.EncodeToString(make([]byte, 20)))))
	if err != nil || a.Auth != AuthPassword || a.Hash != nil {
		t.Errorf("got %v with hash %x, %v", a.Auth, a.Hash, err)
	}
}

func TestCorruptFilesAreOneLine(t *testing.T) {
	good := string(file(t, "plain.vpn"))
	change := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("plain.vpn has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, row := range []struct{ name, text, want string }{
		{"nothing", "", `"declare root"`},
		{"another kind of file", "host vpn.example.com\nuser alice\n", `"declare root"`},
		{"binary", "\x7fELF\xff\xfe", "not UTF-8"},
		{"half of it", good[:len(good)/2], "is"},
		{"the last line is missing", strings.TrimSuffix(strings.TrimSpace(good), "}"), "its end is missing"},
		{"endless", good + strings.Repeat("# x\n", MaxFile/4), "longer than"},
		{"no login", change("declare ClientAuth", "declare Other"), "lacks the folder"},
		{"no server", change("string Hostname vpn.example.com", "string Hostname $"), "names no server"},
		{"a port out of range", change("uint Port 992", "uint Port 65536"), "Port is out of range"},
		{"a port that is no number", change("uint Port 992", "uint Port x"), "Port is out of range"},
		{"a port of another type", change("uint Port 992", "string Port 992"), "Port is no uint"},
		{"an unknown type", change("uint Port 992", "float Port 992"), "is no setting"},
		{"too many words", change("uint Port 992", "uint Port 992 1"), "is no setting"},
		{"a bad escape", change("CustomHttpHeader $", "CustomHttpHeader $4"), "$"},
		{"a bad escape's digits", change("CustomHttpHeader $", "CustomHttpHeader $XY"), "hexadecimal"},
		{"a line break in a name", change("string Username alice", "string Username al$0Aice"), "control character"},
		{"no base64", change("EncryptedPassword HqsXkVBaXCmp", "EncryptedPassword H***"), "EncryptedPassword is not base64"},
		{"a secret of noise", change("EncryptedPassword HqsXkVBaXCmp", "EncryptedPassword "+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 64))), "cannot be deciphered"},
		{"a smart card", minimal("uint AuthType 4"), "smart card"},
		{"half a hash", minimal("uint AuthType 1\nbyte HashedPassword AAAA"), "3 bytes and not 20"},
		{"a certificate of noise", minimal("uint AuthType 3\nbyte ClientCert AAAA"), "ClientCert is no X.509"},
		{"a key of noise", minimal("uint AuthType 3\nbyte ClientKey AAAA"), "ClientKey is no private key"},
		{"too deep", strings.Repeat("declare root\n{\n", 100), "deeper"},
	} {
		a, err := Parse([]byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "export it anew") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, %v; want one line with %q", row.name, a, err, row.want)
		}
		if err != nil && strings.Contains(err.Error(), "HqsXkVBaXCmp") {
			t.Errorf("%s: a secret is in the error %q", row.name, err)
		}
	}
}

func TestAnAccountPrintsNoSecret(t *testing.T) {
	a, err := Parse(file(t, "plain.vpn"))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, a); got != `account "plain"` {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"hashed", "plain", "anonymous", "certificate", "umlaut"} {
		f.Add(file(f, name+".vpn"))
	}
	f.Add([]byte(minimal(encrypted(key32, "secret"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(b)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		again, err := Parse(a.Bytes())
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		a.MaxConnection, a.Retry = max(1, a.MaxConnection), max(5, a.Retry)
		if a.Proxy.Kind == ProxyNone {
			a.Headers = ""
		}
		if d := cmp.Diff(a, again, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Error(d)
		}
	})
}
