package privnet

import (
	"net/netip"
	"strings"
	"testing"

	"softether-go/pkg/netcfg"
)

func TestResolvConfHasWhatTheLibraryLooksAt(t *testing.T) {
	var d netcfg.DNS
	if got := resolvText(d); strings.Contains(got, "nameserver") || strings.Contains(got, "search") {
		t.Errorf("without servers: got %q", got)
	}
	for _, s := range []string{"10.0.0.1", "fe80::1", "2001:db8::1", "10.0.0.4"} {
		d.Servers = append(d.Servers, netip.MustParseAddr(s))
	}
	d.Search = []string{"corp", "lab.corp"}
	_, got, _ := strings.Cut(resolvText(d), "\n")
	if want := "nameserver 10.0.0.1\nnameserver fe80::1%vpn0\nnameserver 2001:db8::1\nsearch corp lab.corp\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHostsAreAskedForInFilesAndDNSOnly(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"", "\nhosts: files dns\n"},
		{"passwd: files\n", "passwd: files\nhosts: files dns\n"},
		{"hosts:  files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns\npasswd: files systemd\n", "hosts: files dns\npasswd: files systemd\n"},
		{" hosts : resolve\nhosts: mymachines\n# hosts: resolve", "hosts: files dns\nhosts: files dns\n# hosts: resolve\n"},
		{"networks: files", "networks: files\nhosts: files dns\n"},
	} {
		if got := plainHosts(row.text); got != row.want {
			t.Errorf("%q: got %q, want %q", row.text, got, row.want)
		}
	}
}

// Whatever the file, the result names hosts once at least and nothing beside files and
// DNS for them, and a second time changes nothing.
func FuzzPlainHosts(f *testing.F) {
	f.Add("hosts: files resolve dns\n")
	f.Add("passwd: files\nhosts:dns")
	f.Fuzz(func(t *testing.T, text string) {
		got := plainHosts(text)
		if again := plainHosts(got); again != got {
			t.Errorf("%q: got %q, and of that %q", text, got, again)
		}
		n := 0
		for line := range strings.Lines(got) {
			if db, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(db) == "hosts" {
				n++
				if line != "hosts: files dns\n" {
					t.Errorf("%q: got the line %q", text, line)
				}
			}
		}
		if n == 0 {
			t.Errorf("%q: no line about hosts in %q", text, got)
		}
	})
}

func TestParentIsFoundBehindAnyName(t *testing.T) {
	for stat, want := range map[string]string{
		"12 (sh) S 7 12 12 0": "7", "12 (a) R 9) (x) S 8 1": "8", "12 () S 1": "1", "": "", "12 (sh) S": "", ")": "",
	} {
		if got := parentOf(stat); got != want {
			t.Errorf("%q: got %q, want %q", stat, got, want)
		}
	}
}

func FuzzParentOf(f *testing.F) {
	f.Add("12 (sh) S 7 12 12 0")
	f.Fuzz(func(t *testing.T, stat string) {
		if got := parentOf(stat); strings.ContainsAny(got, " \n") {
			t.Errorf("%q: got %q", stat, got)
		}
	})
}

func TestPortsAreTakenApart(t *testing.T) {
	for _, s := range []string{"tcp/80", "udp/53"} {
		if network, number, err := splitPort(s); err != nil || network+"/"+number != s {
			t.Errorf("%q: got %q, %q, %v", s, network, number, err)
		}
	}
	for _, s := range []string{"", "80", "sctp/80", "tcp/", "/80"} {
		if _, _, err := splitPort(s); err == nil {
			t.Errorf("%q: want an error", s)
		}
	}
}
