package tap

import (
	"net"
	"strings"
	"testing"
)

func TestConfigIsCheckedBeforeAnythingIsMade(t *testing.T) {
	mac := net.HardwareAddr{0x5e, 0, 0x53, 1, 2, 3}
	for _, row := range []struct {
		name string
		cfg  Config
		want string // part of the error; empty means none
	}{
		{"nothing given", Config{}, ""},
		{"all given", Config{Name: "vpn0", MAC: mac, MTU: 1400}, ""},
		{"name of 15 bytes", Config{Name: "abcdefghijklmno"}, ""},
		{"name with dots and dashes", Config{Name: "vpn-0.office"}, ""},
		{"least MTU", Config{MTU: 68}, ""},
		{"largest MTU", Config{MTU: 1586}, ""},

		{"name of 16 bytes", Config{Name: "abcdefghijklmnop"}, `"abcdefghijklmnop" cannot name an interface: it has 16 bytes, and a name has at most 15; choose one such as vpn0`},
		{"name with a space", Config{Name: "my vpn"}, "without space"},
		{"name with a line feed", Config{Name: "vpn\n0"}, `"vpn\n0" cannot name`},
		{"name with a zero byte", Config{Name: "vpn\x000"}, "without space"},
		{"name with a slash", Config{Name: "a/b"}, "slash"},
		{"name with a colon", Config{Name: "vpn0:1"}, "colon"},
		{"name that is a pattern", Config{Name: "vpn%d"}, "percent sign"},
		{"name beyond ASCII", Config{Name: "büro"}, "ASCII"},
		{"name of invalid UTF-8", Config{Name: "vpn\xff"}, "ASCII"},
		{"name of the directory", Config{Name: "."}, "meaning of its own"},
		{"name of the parent", Config{Name: ".."}, "meaning of its own"},
		{"name of all interfaces", Config{Name: "all"}, "meaning of its own"},
		{"name of future interfaces", Config{Name: "default"}, "meaning of its own"},

		{"MAC too short", Config{MAC: mac[:5]}, `MAC address "5e:00:53:01:02" has 5 bytes instead of 6`},
		{"MAC of eight bytes", Config{MAC: append(mac[:6:6], 1, 2)}, "has 8 bytes"},
		{"MAC empty", Config{MAC: net.HardwareAddr{}}, "has 0 bytes"},
		{"MAC multicast", Config{MAC: net.HardwareAddr{1, 0, 0x5e, 1, 2, 3}}, "MAC address 01:00:5e:01:02:03 is a multicast address: choose a unicast one"},
		{"MAC broadcast", Config{MAC: net.HardwareAddr{255, 255, 255, 255, 255, 255}}, "multicast"},
		{"MAC zero", Config{MAC: make(net.HardwareAddr, 6)}, "MAC address 00:00:00:00:00:00 is no address"},

		{"MTU too small", Config{MTU: 67}, "MTU 67 is out of range: choose 68 to 1586, usually 1500"},
		{"MTU too large", Config{MTU: 1587}, "MTU 1587 is out of range"},
		{"MTU negative", Config{MTU: -1}, "MTU -1 is out of range"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.cfg.withDefaults().check()
			switch {
			case row.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want it to say %q", err, row.want)
			case err != nil && strings.Contains(err.Error(), "\n"):
				t.Errorf("got an error of several lines: %v", err)
			}
		})
	}
}

func TestOpenRefusesABadConfigEverywhere(t *testing.T) {
	d, err := Open(Config{MTU: 9000})
	if err == nil {
		d.Close()
		t.Fatal("got a device, want an error")
	}
	if !strings.HasPrefix(err.Error(), "tap: ") {
		t.Errorf("got %q, want it to begin with the package", err)
	}
}
