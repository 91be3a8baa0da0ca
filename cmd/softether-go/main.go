// Command softether-go joins a SoftEther VPN server's virtual hub. It serves a
// SOCKS5 and HTTP proxy through it, as an ordinary user, or gives this machine a
// network interface there.
//
// This package is the only one that chooses: it turns a config.Config into the near
// end of a tunnel (a network stack with proxies, or a TAP) and a client, runs them,
// and turns the first cause of their end into a line of text and an exit code.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"softether-go/pkg/config"
)

// version is set by the linker in a release.
var version string

func main() {
	ctx, release := context.Background(), func() {}
	if !ownSignals(os.Args[1:]) {
		ctx, release = withSignals(ctx)
	}
	code := dispatch(ctx, os.Args[1:], terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	release()
	os.Exit(code)
}

// terminal is where a command talks to.
type terminal struct {
	in       *os.File
	out, err io.Writer
}

// A command is what the first argument names.
type command struct {
	name, args, help string
	run              func(ctx context.Context, args []string, t terminal) error
}

func commands() []command {
	return []command{
		{"", "[flags]", "join a hub, with proxies or a network interface, until stopped", connect},
		{"run", "[flags] -- COMMAND", "run a command with a network of its own in the hub, without root", runCommand},
		{"nc", "[flags] HOST PORT", "join standard input and output to a port in the VPN: for ssh's ProxyCommand", netcat},
		{"ping", "[flags] HOST", "ask a host in the VPN for echoes; also -count, -interval, -size, -df, -ttl, -4, -6", pingHost},
		{"traceroute", "[flags] HOST", "show the routers on the way to a host in the VPN; also -hops, -4, -6", traceHost},
		{"demo", "[flags]", "try it without a server: an embedded hub, a tunnel through it, proxies, a page", demo},
		{"import", "FILE.vpn [FILE.conf]", "turn an account of the official client into a config file", importAccount},
		{"export", "FILE.vpn [flags]", "turn settings into an account for the official client", exportAccount},
		{"passwd", "[flags]", "change the user's password on the server; -new-pass-file FILE has the new one", changePassword},
		{"hash", "-user NAME", "print the hash of a password, for -pass-hash", printHash},
		{"proxy-user", "NAME", "print a line for -proxy-users, with the hash of a password", printUser},
		{"health", "[ready|live|started]", "ask the program that runs here with -health, or SOFTETHER_HEALTH; exit code 1 is no", askHealth},
		{"drain", "[-wait TIME]", "have that program say it is not ready, and wait for others to notice", drain},
		{"pause", "", "do nothing until stopped, such as to hold a network that containers share", pause},
		{"cleanup", "", "remove what killed instances left on this machine (routes, marks, name servers)", cleanUp},
		{"config", "[flags]", "print the settings that the flags, environment and config file come to", printConfig},
		{"version", "", "print the version", printVersion},
		{"help", "", "print this text", printHelp},
	}
}

// dispatch runs the command that args name and returns the exit code.
func dispatch(ctx context.Context, args []string, t terminal) int {
	name := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	for _, c := range append(commands(), innerCommands()...) {
		if c.name == name {
			return report(c.run(ctx, args, t), t)
		}
	}
	return report(usageError{fmt.Errorf("there is no command %q; softether-go help lists them", name)}, t)
}

// report prints why a command ended, if that is worth a word, and returns its
// exit code.
func report(err error, t terminal) int {
	if errors.Is(err, config.ErrHelp) {
		err = printHelp(context.Background(), nil, t)
	}
	var ended commandExit
	if errors.As(err, &ended) && ended.why == nil {
		return ended.code
	}
	code := exitCode(err)
	if code != exitOK {
		fmt.Fprintln(t.err, "softether-go:", strings.ReplaceAll(err.Error(), "\n", "\nsoftether-go: "))
	}
	return code
}

func printVersion(_ context.Context, _ []string, t terminal) error {
	_, err := fmt.Fprintf(t.out, "softether-go %s (%s, %s/%s)\n", versionString(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// versionString prefers the release's version to what the Go tool recorded.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func printHelp(_ context.Context, _ []string, t terminal) error {
	var b strings.Builder
	b.WriteString("softether-go joins a SoftEther VPN and serves it as a SOCKS5 and HTTP proxy,\n" +
		"without root, TAP device or helper; or, as root, by a network interface.\n\nUsage:\n")
	for _, c := range commands() {
		left := strings.TrimSpace("softether-go " + c.name)
		fmt.Fprintf(&b, "  %-47s%s\n", strings.TrimSpace(left+" "+c.args), c.help)
	}
	b.WriteString("\nExample:\n  softether-go -host vpn.example.com -user alice -listen 127.0.0.1:1080\n" +
		"  curl -x socks5h://127.0.0.1:1080 http://files.corp/\n" +
		"  sudo softether-go -host vpn.example.com -user alice -tap vpn0 -accept-dns\n" +
		"  softether-go run -host vpn.example.com -user alice -- ping files.corp\n\n")
	b.WriteString(config.Usage())
	b.WriteString("\nExit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %-4d%s\n", e.code, e.meaning)
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

// printConfig prints what was resolved, as lines of a config file.
func printConfig(_ context.Context, args []string, t terminal) error {
	cfg, err := config.Load(args, config.Source{Prompt: func(string) (string, error) { return "", nil }})
	if err != nil {
		return badConfig(err)
	}
	_, err = io.WriteString(t.out, cfg.Lines())
	return err
}
