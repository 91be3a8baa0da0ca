package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// call runs the program in this process, with no terminal to ask on.
func call(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code = dispatch(ctx, args, terminal{in: null, out: &o, err: &e})
	return code, o.String(), e.String()
}

func TestEveryMistakeIsALineAndAnExitCode(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	base := []string{"-host", "127.0.0.1", "-user", "u", "-pass", "geheim"}
	for _, row := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"unknown command", []string{"conect"}, exitUsage, `no command "conect"`},
		{"unknown flag", append(base, "-sock5", "127.0.0.1:1080"), exitUsage, "-socks5"},
		{"no host", []string{"-user", "u", "-pass", "geheim", "-socks5", "127.0.0.1:0"}, exitUsage, "-host"},
		{"no password and nobody to ask", []string{"-host", "h", "-user", "u", "-socks5", "127.0.0.1:0"}, exitUsage, "-pass-file"},
		{"a CA file that is not there", append(base, "-socks5", "127.0.0.1:0", "-ca", "/nonexistent/ca.pem"), exitUsage, "-ca"},
		{"a CA file without a certificate", append(base, "-socks5", "127.0.0.1:0", "-ca", os.DevNull), exitUsage, "PEM"},
		{"port in use", append(base, "-socks5", busy.Addr().String()), exitFailure, "in use"},
		{"open to all without a password", append(base, "-socks5", "0.0.0.0:0"), exitUsage, "-proxy-open"},
		{"a bad name for the TAP", append(base, "-tap", "vpn/0"), exitUsage, "-tap"},
		{"TAP mode and a proxy", append(base, "-mode", "tap", "-socks5", "127.0.0.1:0"), exitUsage, "-mode"},
		{"cleanup of something", []string{"cleanup", "vpn0"}, exitUsage, "no arguments"},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, _, errs := call(t, row.args...)
			if code != row.code || !strings.Contains(errs, row.want) {
				t.Errorf("exit %d with %q, want %d with %q", code, errs, row.code, row.want)
			}
			if strings.Contains(errs, "geheim") {
				t.Error("the password is in the error")
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"-h"}, {"demo", "-h"}} {
		code, out, _ := call(t, args...)
		if code != exitOK || !strings.Contains(out, "-socks5") || !strings.Contains(out, "Exit codes:") {
			t.Errorf("%v: exit %d with %q", args, code, out)
		}
	}
	if code, out, _ := call(t, "version"); code != exitOK || !strings.HasPrefix(out, "softether-go ") {
		t.Errorf("version: exit %d with %q", code, out)
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	code, out, errs := call(t, "config", "-host", "h", "-user", "u", "-pass", "geheim", "-socks5", "127.0.0.1:1080")
	if code != exitOK || !strings.Contains(out, "socks5 127.0.0.1:1080") || strings.Contains(out, "geheim") {
		t.Errorf("exit %d with %q, %q", code, out, errs)
	}
}

func TestExitCodes(t *testing.T) {
	refusal := func(err error) error { return &session.Error{Op: session.OpLogin, Server: "h:443", Err: err} }
	for _, row := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{fmt.Errorf("run: %w", context.Canceled), exitOK},
		{errors.New("disk full"), exitFailure},
		{usageError{errors.New("no such flag")}, exitUsage},
		{refusal(wire.CodeAuthFailed), exitRefused},
		{refusal(wire.CodeHubNotFound), exitRefused},
		{refusal(fmt.Errorf("10m0s have passed: %w", wire.CodeAutoDisconnect)), exitRefused},
		{refusal(wire.ErrNotVPN), exitRefused},
		{refusal(&session.UntrustedError{}), exitUntrusted},
	} {
		if got := exitCode(row.err); got != row.want {
			t.Errorf("%T: exit code %d, want %d", row.err, got, row.want)
		}
	}
	for _, e := range exitCodes {
		readme, err := os.ReadFile("../../README.md")
		if err != nil {
			t.Fatal(err)
		}
		if row := fmt.Sprintf("| %d | %s |", e.code, e.meaning); !strings.Contains(string(readme), row) {
			t.Errorf("README.md lacks the line %q", row)
		}
	}
}
