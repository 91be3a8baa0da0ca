package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/config"
	"softether-go/pkg/health"
	"softether-go/pkg/stats"
)

// askTime bounds a question to the running program, as health checks do.
const askTime = 10 * time.Second

// A teller tells of a running program's health at some addresses.
type teller struct {
	listeners []net.Listener
	server    health.Server
}

// openTeller listens at all addresses or none.
func openTeller(ctx context.Context, addresses []string) (*teller, error) {
	t := &teller{}
	for _, a := range addresses {
		ln, err := health.Listen(ctx, a)
		if err != nil {
			t.close()
			return nil, fmt.Errorf("-health: %w", err)
		}
		t.listeners = append(t.listeners, ln)
	}
	return t, nil
}

// serve answers until ctx ends.
func (t *teller) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, ln := range t.listeners {
		g.Go(func() error { return t.server.Serve(ctx, ln) })
	}
	g.Go(func() error {
		<-ctx.Done()
		return ctx.Err()
	})
	return g.Wait()
}

func (t *teller) close() {
	for _, ln := range t.listeners {
		ln.Close()
	}
}

// buildCounts says which program the counters are of.
type buildCounts struct{ Info int }

// writeMetrics writes all counters for Prometheus.
func writeMetrics(w io.Writer, sections []stats.Section) error {
	build := stats.Section{Name: "build", Of: versionString(), Counts: buildCounts{1}}
	return stats.WritePrometheus(w, "softether", append(sections, build))
}

// healthAddress finds the running program: by the flag -health or the variable.
func healthAddress(name string, args []string, more func(*flag.FlagSet)) (address string, rest []string, err error) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&address, "health", os.Getenv("SOFTETHER_HEALTH"), "")
	more(flags)
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return "", nil, config.ErrHelp
	} else if err != nil {
		return "", nil, usageError{fmt.Errorf("%s: %w", name, err)}
	}
	address, _, _ = strings.Cut(address, ",")
	if address = strings.TrimSpace(address); address == "" {
		return "", nil, usageError{fmt.Errorf("%s: where? Give -health or SOFTETHER_HEALTH, the same as the running program has", name)}
	}
	return address, flags.Args(), nil
}

// askHealth asks a running program how it is, for health checks without a client of HTTP.
func askHealth(ctx context.Context, args []string, t terminal) error {
	address, rest, err := healthAddress("health", args, func(*flag.FlagSet) {})
	if err != nil {
		return err
	}
	what := "readyz"
	questions := map[string]string{"ready": "readyz", "live": "livez", "started": "startupz", "metrics": "metrics"}
	if len(rest) > 0 {
		what = questions[rest[0]]
	}
	if len(rest) > 1 || what == "" {
		return usageError{errors.New("health: ask for one of ready, live, started, metrics")}
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	said, err := health.Ask(ctx, address, http.MethodGet, what)
	if errors.Is(err, health.ErrNot) {
		return errors.New(said)
	}
	if err == nil {
		_, err = fmt.Fprintln(t.out, said)
	}
	return err
}

// pause does nothing, well.
func pause(ctx context.Context, args []string, _ terminal) error {
	if len(args) > 0 {
		return usageError{errors.New("pause takes no arguments")}
	}
	<-ctx.Done()
	return ctx.Err()
}

// drain has a running program say that it is not ready, and gives others time to notice
// before it is stopped.
func drain(ctx context.Context, args []string, t terminal) error {
	var wait time.Duration
	address, rest, err := healthAddress("drain", args, func(f *flag.FlagSet) { f.DurationVar(&wait, "wait", 5*time.Second, "") })
	if err != nil {
		return err
	}
	if len(rest) > 0 || wait < 0 {
		return usageError{errors.New("drain: takes -health ADDRESS and -wait TIME alone")}
	}
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	said, err := health.Ask(asking, address, http.MethodPost, "drain")
	if err != nil {
		return fmt.Errorf("%w; only by a local socket, unix:PATH or unix:@NAME, can it be asked to drain", err)
	}
	if _, err := fmt.Fprintln(t.out, said); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}
