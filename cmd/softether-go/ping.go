package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/ping"
	"softether-go/pkg/vpn"
)

// ownFlags are those of a command that uses the VPN itself, beside the settings.
type ownFlags struct {
	rest []string // of the settings
	err  error
}

// number takes a flag's number out, which is not negative.
func (f *ownFlags) number(name string, fallback, most int) int {
	word := f.word(name)
	if word == "" {
		return fallback
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 || n > most {
		f.err = errors.Join(f.err, fmt.Errorf("-%s: is a number from 0 to %d", name, most))
	}
	return n
}

func (f *ownFlags) interval(name string, fallback, least time.Duration) time.Duration {
	word := f.word(name)
	if word == "" {
		return fallback
	}
	d, err := time.ParseDuration(word)
	if err != nil || d < least {
		f.err = errors.Join(f.err, fmt.Errorf("-%s: is a time of %v or more, such as 500ms", name, least))
	}
	return d
}

func (f *ownFlags) word(name string) (word string) {
	var err error
	word, f.rest, err = cutFlag(f.rest, name)
	f.err = errors.Join(f.err, err)
	return word
}

// is takes a switch out.
func (f *ownFlags) is(name string) bool {
	n := len(f.rest)
	f.rest = slices.DeleteFunc(slices.Clone(f.rest), func(s string) bool { return s == "-"+name || s == "--"+name })
	return len(f.rest) < n
}

// family returns which kind of address is wanted, as LookupNetIP takes it.
func (f *ownFlags) family() string {
	four, six := f.is("4"), f.is("6")
	switch {
	case four && six:
		f.err = errors.Join(f.err, errors.New("-4, -6: drop one of the two"))
	case four:
		return "ip4"
	case six:
		return "ip6"
	}
	return "ip"
}

// pingHost asks for echoes, as ping(8) does. The exit code is 1 if none has come.
func pingHost(ctx context.Context, args []string, t terminal) error {
	f := &ownFlags{rest: args}
	cfg := ping.Config{
		Count: f.number("count", 0, 1<<30), Size: f.number("size", 56, 65507), Hops: f.number("ttl", 64, 255),
		Interval: f.interval("interval", time.Second, 10*time.Millisecond), Whole: f.is("df"),
	}
	return f.ask(ctx, t, "ping", func(conn ping.Conn, host string, to netip.Addr, mtu int) error {
		cfg.To = to
		if most := longestEcho(mtu, to); cfg.Size > most {
			return usageError{fmt.Errorf("-size: %d bytes do not fit into a packet of this VPN: give %d or less", cfg.Size, most)}
		}
		fmt.Fprintf(t.out, "PING %s (%v) %d bytes of data.\n", host, to, cfg.Size)
		st, err := ping.Run(ctx, conn, cfg, func(a ping.Answer) { showAnswer(t.out, a) })
		if err != nil {
			return err
		}
		showStatistics(t.out, host, st)
		if st.Received == 0 {
			return commandExit{code: exitFailure}
		}
		return nil
	})
}

// ask joins the VPN, finds the host, and has use ask it. The flags of the command's own
// have been taken out.
func (f *ownFlags) ask(ctx context.Context, t terminal, command string, use func(conn ping.Conn, host string, to netip.Addr, mtu int) error) error {
	family := f.family()
	if f.err != nil {
		return usageError{f.err}
	}
	flags, words, err := cutWords(command, f.rest, "a host", "build.corp")
	if err != nil {
		return err
	}
	host := words[0]
	tunnel, err := dialTool(ctx, flags, t)
	if err != nil {
		return err
	}
	defer tunnel.Close()
	conn, to, err := openICMP(ctx, tunnel, family, host)
	if err != nil {
		return prefixed(command, err)
	}
	defer conn.Close()
	err = use(conn, host, to, tunnel.Address().EffectiveMTU())
	if quiet := (commandExit{}); errors.As(err, &quiet) {
		return err
	}
	return prefixed(command, err)
}

// longestEcho returns what a packet of the MTU holds beside its headers.
func longestEcho(mtu int, to netip.Addr) int {
	if to.Is6() {
		return mtu - 40 - 8
	}
	return mtu - 20 - 8
}

// openICMP looks a host up in the VPN, and opens what asks it. Of a host with addresses of
// both families it is the first of IPv4, unless the user says otherwise.
func openICMP(ctx context.Context, tunnel *vpn.Tunnel, family, host string) (*netstack.ICMPConn, netip.Addr, error) {
	addrs, err := tunnel.LookupNetIP(ctx, family, host)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	to := addrs[max(0, slices.IndexFunc(addrs, netip.Addr.Is4))]
	network := "ip4"
	if to.Is6() {
		network = "ip6"
		awaitIPv6(ctx, tunnel)
	}
	conn, err := tunnel.ListenICMP(network)
	return conn, to, err
}

func showAnswer(w io.Writer, a ping.Answer) {
	if a.Error.Kind != ping.None {
		fmt.Fprintf(w, "From %v icmp_seq=%d %v", a.From, a.Seq, a.Error.Kind)
		if a.Error.MTU > 0 {
			fmt.Fprintf(w, " (mtu = %d)", a.Error.MTU)
		}
		fmt.Fprintln(w)
		return
	}
	again := ""
	if a.Again {
		again = " (DUP!)"
	}
	fmt.Fprintf(w, "%d bytes from %v: icmp_seq=%d ttl=%d time=%s ms%s\n", a.Size, a.From, a.Seq, a.Hops, millis(a.Time), again)
}

// millis writes a time with three digits that say something.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms >= 100:
		return strconv.FormatFloat(ms, 'f', 0, 64)
	case ms >= 10:
		return strconv.FormatFloat(ms, 'f', 1, 64)
	}
	return strconv.FormatFloat(ms, 'f', 3, 64)
}

func showStatistics(w io.Writer, host string, st ping.Stats) {
	lost := 0
	if st.Sent > 0 {
		lost = (st.Sent - st.Received) * 100 / st.Sent
	}
	var more strings.Builder
	if st.Again > 0 {
		fmt.Fprintf(&more, ", +%d duplicates", st.Again)
	}
	if st.Errors > 0 {
		fmt.Fprintf(&more, ", +%d errors", st.Errors)
	}
	fmt.Fprintf(w, "\n--- %s ping statistics ---\n%d packets transmitted, %d received%s, %d%% packet loss, time %dms\n",
		host, st.Sent, st.Received, more.String(), lost, st.Took.Milliseconds())
	if st.Received > 0 {
		ms := func(d time.Duration) string {
			return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 3, 64)
		}
		fmt.Fprintf(w, "rtt min/avg/max/mdev = %s/%s/%s/%s ms\n", ms(st.Min), ms(st.Avg), ms(st.Max), ms(st.Deviation))
	}
}

// traceHost shows the way to a host, as traceroute(8) does by ICMP. The exit code is 1 if
// the way ends before it.
func traceHost(ctx context.Context, args []string, t terminal) error {
	f := &ownFlags{rest: args}
	cfg := ping.TraceConfig{MaxHops: f.number("hops", 30, 64), Size: 32}
	return f.ask(ctx, t, "traceroute", func(conn ping.Conn, host string, to netip.Addr, _ int) error {
		cfg.To = to
		fmt.Fprintf(t.out, "traceroute to %s (%v), %d hops max\n", host, to, cfg.MaxHops)
		arrived, err := ping.Trace(ctx, conn, cfg, func(h ping.Hop) { showHop(t.out, h) })
		if err == nil && !arrived {
			err = commandExit{code: exitFailure}
		}
		return err
	})
}

// showHop names a router once for all its answers in a row.
func showHop(w io.Writer, h ping.Hop) {
	fmt.Fprintf(w, "%2d ", h.Number)
	var last netip.Addr
	for i := range 3 {
		if i >= len(h.Answers) {
			fmt.Fprint(w, " *")
			continue
		}
		a := h.Answers[i]
		if a.From != last {
			fmt.Fprintf(w, " %v ", a.From)
			last = a.From
		}
		fmt.Fprintf(w, " %s ms", millis(a.Time))
		if mark := a.Error.Kind.Mark(); mark != "" {
			fmt.Fprint(w, " ", mark)
		}
	}
	fmt.Fprintln(w)
}
