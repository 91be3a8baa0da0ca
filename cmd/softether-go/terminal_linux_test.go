package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/config"
	"softether-go/pkg/netcfg"
)

// pty opens a terminal: what is written to master is typed, what is read from it
// is shown.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("%v; a container wants -t or /dev/pts mounted", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestThePasswordIsAskedForOnATerminalAndNotShown(t *testing.T) {
	t.Setenv("SOFTETHER_PASS", "")
	master, slave := pty(t)
	var shown syncBuffer
	go io.Copy(&shown, master)
	result := make(chan config.Config, 1)
	go func() {
		cfg, err := loadConfig([]string{"-host", "h", "-user", "alice", "-socks5", "127.0.0.1:0"}, terminal{in: slave, out: slave, err: slave})
		if err != nil {
			t.Error(err)
		}
		result <- cfg
	}()
	shown.await(t, "assword")
	if _, err := io.WriteString(master, "geheim\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case cfg := <-result:
		if got := cfg.Auth.Password.Reveal(); got != "geheim" {
			t.Errorf("password %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still asking")
	}
	if strings.Contains(shown.String(), "geheim") {
		t.Errorf("what was typed was shown: %q", shown.String())
	}
}

func TestLogsAreTextOrJSON(t *testing.T) {
	var text, lines bytes.Buffer
	newLogger(config.Log{}, terminal{err: &text}).Info("tunnel up", "took", time.Second)
	newLogger(config.Log{JSON: true}, terminal{err: &lines}).Info("tunnel up", "took", time.Second)
	if got := text.String(); !strings.Contains(got, `level=INFO msg="tunnel up" took=1s`) {
		t.Errorf("text: %q", got)
	}
	var m map[string]any
	if err := json.Unmarshal(lines.Bytes(), &m); err != nil || m["msg"] != "tunnel up" || m["level"] != "INFO" {
		t.Errorf("JSON: %q, %v", lines.String(), err)
	}
	var quiet bytes.Buffer
	newLogger(config.Log{Level: slog.LevelWarn}, terminal{err: &quiet}).Info("tunnel up")
	if quiet.Len() != 0 {
		t.Errorf("a level of warn shows %q", quiet.String())
	}
}

func TestOwnNameServersReplaceTheLease(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	lease := netcfg.Config{
		Address: netip.MustParsePrefix("10.0.0.5/24"),
		DNS:     netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Search: []string{"corp"}},
	}
	for _, row := range []struct {
		name string
		a    config.Addressing
		want netcfg.DNS
	}{
		{"none given", config.Addressing{}, lease.DNS},
		{"a server given", config.Addressing{DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}},
			netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, Search: []string{"corp"}}},
		{"a domain given", config.Addressing{Search: []string{"lab"}},
			netcfg.DNS{Servers: lease.DNS.Servers, Search: []string{"lab"}}},
	} {
		adjust := addressing(row.a).Plan(mac, slog.New(slog.DiscardHandler)).Adjust
		want := lease
		want.DNS = row.want
		if got := adjust(lease); !got.Equal(want) {
			t.Errorf("%s: %+v, want %+v", row.name, got.DNS, row.want)
		}
	}
	byHand := addressing(config.Addressing{NoDHCP: true, Address: lease.Address}).Plan(mac, nil)
	if byHand.DHCP != nil || byHand.Static.Address != lease.Address {
		t.Error("-no-dhcp still asks for a lease, or lost the address")
	}
}

func TestASignalEndsTheContext(t *testing.T) {
	ctx, release := withSignals(context.Background())
	defer release()
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
		t.Error("the first signal did not end the context")
	}
}
