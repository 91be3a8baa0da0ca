package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"softether-go/pkg/config"
	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// printHash prints what the server stores for a user and a password, as -pass-hash
// takes it and as the official programs' files have it.
func printHash(_ context.Context, args []string, t terminal) error {
	flags := flag.NewFlagSet("hash", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	user := flags.String("user", "", "")
	file := flags.String("pass-file", "", "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return config.ErrHelp
	case err != nil || flags.NArg() > 0: // not repeated: a password may be in it
		return usageError{errors.New("hash takes -user NAME and, if the password is in a file, -pass-file FILE")}
	case *user == "":
		return usageError{errors.New("hash: -user is missing: the name is part of the hash")}
	}
	password, err := t.secret(*file, fmt.Sprintf("Password of %s: ", *user))
	if err != nil {
		return usageError{fmt.Errorf("hash: %w", err)}
	}
	sum := wire.PasswordHash(*user, password)
	_, err = fmt.Fprintln(t.out, base64.StdEncoding.EncodeToString(sum[:]))
	return err
}

// secret reads a password that is being chosen: from a file, by two questions on a
// terminal, or as the first line of what is piped in.
func (t terminal) secret(file, question string) (string, error) {
	if file != "" {
		s, err := config.ReadSecret(file)
		return s.Reveal(), err
	}
	if term.IsTerminal(int(t.in.Fd())) {
		return t.askTwice(question)
	}
	// One more than the longest password with its line's end, to see one too long.
	line, err := bufio.NewReader(io.LimitReader(t.in, 258)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	s, err := config.ParseSecret(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"))
	switch {
	case err != nil:
		return "", fmt.Errorf("the password is %w", err)
	case s.Reveal() == "":
		return "", errors.New("there is no password: give it in a file, on a terminal, or as a line of standard input")
	}
	return s.Reveal(), nil
}

func (t terminal) askTwice(question string) (string, error) {
	first, err := t.askPassword(question)
	if err != nil {
		return "", fmt.Errorf("ask for the password: %w", err)
	}
	s, err := config.ParseSecret(first)
	switch {
	case err != nil:
		return "", fmt.Errorf("the password is %w", err)
	case first == "":
		return "", errors.New("the password is empty")
	}
	again, err := t.askPassword("The same again: ")
	switch {
	case err != nil:
		return "", fmt.Errorf("ask for the password: %w", err)
	case again != first:
		return "", errors.New("the two are not the same: nothing was done")
	}
	return s.Reveal(), nil
}

// changePassword changes the user's password on the server.
func changePassword(ctx context.Context, args []string, t terminal) error {
	file, args, err := cutFlag(args, "new-pass-file")
	if err != nil {
		return usageError{err}
	}
	if file == "" {
		file = os.Getenv("SOFTETHER_NEW_PASS_FILE")
	}
	cfg, err := loadConfig(args, t)
	if err != nil {
		return err
	}
	if cfg.Auth.Method != config.HashedPassword {
		return usageError{fmt.Errorf("passwd: a login by %v has no password that the server keeps: those of RADIUS and domains are changed there", cfg.Auth.Method)}
	}
	if onCommandLine(cfg, "pass") || onCommandLine(cfg, "pass-hash") {
		return usageError{errors.New("passwd: the present password is not for the command line, where everyone can see it: " +
			"give -pass-file, SOFTETHER_PASS, or be asked on a terminal")}
	}
	log := newLogger(cfg.Log, t)
	sc, err := sessionConfig(cfg, log)
	if err != nil {
		return err
	}
	way, err := newDialer(cfg, log)
	if err != nil {
		return err
	}
	sc.DialContext, sc.Log = way.DialContext, log
	password, err := t.secret(file, fmt.Sprintf("New password for %s: ", cfg.Auth.User))
	if err != nil {
		return usageError{fmt.Errorf("passwd: -new-pass-file: %w", err)}
	}
	if err := session.ChangePassword(ctx, sc, password); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "The password of %s at %s is changed. Where the old one is kept for logging in, put the new one.\n", cfg.Auth.User, cfg.Server.Host)
	return err
}

// onCommandLine reports whether an option's own word was a flag.
func onCommandLine(cfg config.Config, name string) bool {
	for _, s := range cfg.Settings {
		if s.Name == name {
			return s.Origin == config.FromFlag && s.Where == config.FromFlag.String()
		}
	}
	return false
}

// cutFlag takes a flag of a command's own, and its value, out of args.
func cutFlag(args []string, name string) (value string, rest []string, err error) {
	for i := 0; i < len(args); i++ {
		word, inline, isInline := strings.Cut(args[i], "=")
		switch {
		case word != "-"+name && word != "--"+name:
			rest = append(rest, args[i])
		case isInline:
			value = inline
		case i+1 == len(args):
			return "", nil, fmt.Errorf("-%s: needs a value", name)
		default:
			i++
			value = args[i]
		}
	}
	return value, rest, nil
}
