package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"softether-go/pkg/config"
)

// What the process of softether-go run hears is what its front was told, secrets
// included, wherever they came from.
func TestRunHandsEverySettingOn(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	const keys = "../../pkg/credential/testdata/"
	base := []string{"-host", "h", "-user", "bob"}
	for i, row := range []struct {
		args []string
		env  map[string]string
	}{
		{append(base, "-pass", "geheim"), nil},
		{append(base, "-pass-hash", strings.TrimSpace(bobHash), "-trust-on-first-use"), nil},
		{base, map[string]string{"SOFTETHER_PASS_HASH": strings.TrimSpace(bobHash)}},
		{append(base, "-cert", keys+"cert.pem", "-key", keys+"traditional-des3.pem", "-key-password", "geheim"), nil},
		{append(base, "-pass", "x", "-proxy", "http://me:geheim@proxy", "-proxy-header", "X-A: b, c"), nil},
		{append(base, "-pass", "x", "-proxy-from-env"), map[string]string{"HTTPS_PROXY": "http://me:geheim@proxy"}},
		{[]string{"-account", officialAccounts + "hashed.vpn"}, nil},
		{[]string{"-account", officialAccounts + "plain.vpn"}, nil},
		{[]string{"-account", officialAccounts + "certificate.vpn"}, nil},
		{[]string{"-account", officialAccounts + "hashed.vpn", "-pass", "other"}, nil},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Setenv("HTTPS_PROXY", row.env["HTTPS_PROXY"])
			want, err := config.Load(row.args, config.Source{Run: true, LookupEnv: func(name string) (string, bool) { v, ok := row.env[name]; return v, ok }})
			if err != nil {
				t.Fatal(err)
			}
			got, err := newVPNOrder(want).load()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, want, cmpopts.IgnoreFields(config.Config{}, "Settings", "Notes"), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("-got +want:\n%s", diff)
			}
		})
	}
}
