package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"softether-go/pkg/config"
	"softether-go/pkg/users"
	"softether-go/proxy"
)

// openAuth returns who may use the proxies; nil means everyone.
func (p *proxies) openAuth(c config.Proxy) (proxy.Auth, error) {
	switch {
	case c.User != "":
		return proxy.NewAuth(c.User, c.Password.Reveal())
	case c.Users == "":
		return nil, nil
	}
	u, err := users.Open(users.Config{Path: c.Users, Tags: c.Isolate, Log: p.log})
	if err != nil {
		return nil, fmt.Errorf("-proxy-users: %w", err)
	}
	p.reloads = append(p.reloads, u.Reload)
	p.users = u
	return usersAuth{u}, nil
}

// usersAuth is a file of users as the proxies ask for it.
type usersAuth struct{ *users.Users }

func (a usersAuth) Login(ctx context.Context, name, password []byte) proxy.User {
	l, ok := a.Users.Login(ctx, name, password)
	if !ok {
		return nil
	}
	return l
}

// reload reads all files again when a signal asks for that.
func (p *proxies) reload(ctx context.Context) error {
	asked := make(chan os.Signal, 1)
	if reloadSignal != nil && len(p.reloads) > 0 {
		signal.Notify(asked, reloadSignal)
		defer signal.Stop(asked)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
			for _, read := range p.reloads {
				if err := read(); err != nil {
					p.log.Error("not read again, what was before stays", "cause", err)
				}
			}
			p.log.Info("files of the proxies read again")
		}
	}
}

// printUser prints a line of a file for -proxy-users.
func printUser(_ context.Context, args []string, t terminal) error {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("proxy-user", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("pass-file", "", "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return config.ErrHelp
	case err != nil || name == "" || name[0] == '-' || flags.NArg() > 0: // not repeated: a password may be in it
		return usageError{errors.New("proxy-user takes a NAME and, if the password is in a file, -pass-file FILE")}
	}
	password, err := t.secret(*file, fmt.Sprintf("Password of %s: ", name))
	if err != nil {
		return usageError{fmt.Errorf("proxy-user: %w", err)}
	}
	line, err := users.Line(name, password)
	if err != nil {
		return usageError{fmt.Errorf("proxy-user: %w", err)}
	}
	_, err = fmt.Fprintln(t.out, line)
	return err
}
