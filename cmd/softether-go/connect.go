package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"golang.org/x/term"

	"softether-go/pkg/config"
)

// connect is the main job.
func connect(ctx context.Context, args []string, t terminal) error {
	if len(args) == 0 {
		_, host := os.LookupEnv("SOFTETHER_HOST")
		_, account := os.LookupEnv("SOFTETHER_ACCOUNT")
		if !host && !account {
			return printHelp(ctx, nil, t)
		}
	}
	cfg, err := loadConfig(args, t)
	if err != nil {
		return err
	}
	halveThreads()
	log := newLogger(cfg.Log, t)
	for _, note := range cfg.Notes {
		log.Warn(note)
	}
	v, err := newProgram(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer v.close()
	v.tables, v.manager = t.err, newNotifier(log)
	return v.run(ctx)
}

// halveThreads leaves half of the processors to others, unless GOMAXPROCS says
// otherwise. Each direction of a session is one goroutine's work, and idle threads
// that look for more of it cost more than they find: one download on two cores,
// three rounds in turns, took 3.3 CPU seconds per GB with two threads and 2.5 with
// one, which left the server more of the machine and was 7 % faster.
func halveThreads() {
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
}

func loadConfig(args []string, t terminal) (config.Config, error) {
	return loadFrom(config.Source{}, args, t)
}

// loadTool is loadConfig for a command that uses the VPN itself.
func loadTool(args []string, t terminal) (config.Config, error) {
	return loadFrom(config.Source{Tool: true}, args, t)
}

func loadFrom(src config.Source, args []string, t terminal) (config.Config, error) {
	if term.IsTerminal(int(t.in.Fd())) {
		src.Prompt = t.askPassword
	}
	cfg, err := config.Load(args, src)
	if err == nil && src.Prompt != nil {
		err = t.askPassphrase(&cfg)
	}
	return cfg, badConfig(err)
}

// badConfig marks what is wrong with the settings, unless it is a call for help.
func badConfig(err error) error {
	if err == nil || errors.Is(err, config.ErrHelp) {
		return err
	}
	return usageError{err}
}

// askPassword asks without showing what is typed.
func (t terminal) askPassword(question string) (string, error) {
	fmt.Fprint(t.err, question)
	b, err := term.ReadPassword(int(t.in.Fd()))
	fmt.Fprintln(t.err)
	return string(b), err
}

func newLogger(c config.Log, t terminal) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.JSON {
		return slog.New(slog.NewJSONHandler(t.err, options))
	}
	options.ReplaceAttr = func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
		}
		return a
	}
	return slog.New(slog.NewTextHandler(t.err, options))
}
