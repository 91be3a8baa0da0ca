package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestPingSaysWhatPingSays(t *testing.T) {
	_, flags := startLab(t)
	code, out, errs := callWith(t, "", append(append([]string{"ping", "-count", "3", "-interval=20ms", "-size", "100", "-df"}, flags...), "hub.demo")...)
	want := regexp.MustCompile(`^PING hub\.demo \(10\.77\.0\.1\) 100 bytes of data\.
108 bytes from 10\.77\.0\.1: icmp_seq=1 ttl=\d+ time=[\d.]+ ms
108 bytes from 10\.77\.0\.1: icmp_seq=2 ttl=\d+ time=[\d.]+ ms
108 bytes from 10\.77\.0\.1: icmp_seq=3 ttl=\d+ time=[\d.]+ ms

--- hub\.demo ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time \d+ms
rtt min/avg/max/mdev = [\d.]+/[\d.]+/[\d.]+/[\d.]+ ms
$`)
	if code != exitOK || !want.MatchString(out) || errs != "" {
		t.Errorf("exit %d with:\n%s%s", code, out, errs)
	}
}

func TestTracerouteSaysWhatTracerouteSays(t *testing.T) {
	_, flags := startLab(t)
	code, out, errs := callWith(t, "", append(append([]string{"traceroute"}, flags...), "hub.demo")...)
	want := regexp.MustCompile(`^traceroute to hub\.demo \(10\.77\.0\.1\), 30 hops max\n 1  10\.77\.0\.1  [\d.]+ ms [\d.]+ ms [\d.]+ ms\n$`)
	if code != exitOK || !want.MatchString(out) || errs != "" {
		t.Errorf("exit %d with:\n%s%s", code, out, errs)
	}
}

func TestPingSaysWhatIsWrong(t *testing.T) {
	_, flags := startLab(t)
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"ping"}, exitUsage, "takes a host"},
		{append(append([]string{"ping"}, flags...), "-count", "1", "-log-level", "error"), exitUsage, "ping takes a host, after the flags: softether-go ping"},
		{append(append([]string{"ping"}, flags...), "a", "b"), exitUsage, "ping takes a host, after"},
		{append(append([]string{"traceroute"}, flags...), "a", "-hops", "3", "b"), exitUsage, "traceroute takes a host, after"},
		{append(append([]string{"nc"}, flags...), "-log-level", "error"), exitUsage, "nc takes a host and a port, after the flags: softether-go nc -config office.conf build.corp 22"},
		{append(append([]string{"nc"}, flags...), "-log-level", "error", "22"), exitUsage, "nc takes a host and a port"},
		{[]string{"ping", "-sock5", "1", "h"}, exitUsage, "-sock5: no such flag"},
		{[]string{"ping", "-h"}, exitOK, ""},
		{[]string{"ping", "-count", "x", "h"}, exitUsage, "-count"},
		{[]string{"ping", "-interval", "1us", "h"}, exitUsage, "-interval"},
		{[]string{"traceroute", "-4", "-6", "h"}, exitUsage, "drop one"},
		{append(append([]string{"ping", "-count", "1"}, flags...), "nobody.demo"), exitFailure, "nobody.demo"},
		{append(append([]string{"ping", "-size", "2000", "-count", "1"}, flags...), "hub.demo"), exitUsage, "give 1472 or less"},
	} {
		code, _, errs := callWith(t, "", row.args...)
		if code != row.code || !strings.Contains(errs, row.want) {
			t.Errorf("%v: exit %d with %q, want %d with %q", row.args, code, errs, row.code, row.want)
		}
	}
}
