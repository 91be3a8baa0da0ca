package main

import (
	"context"
	"errors"

	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// The exit codes are an interface: service managers and scripts branch on them.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitRefused   = 3
	exitUntrusted = 4
	exitForced    = 130
)

var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "stopped as asked"},
	{exitFailure, "something local failed: a listener, a file, the network stack"},
	{exitUsage, "the flags, environment or config file are wrong"},
	{exitRefused, "the server, or a proxy before it, refused for good: password, user, hub, policy"},
	{exitUntrusted, "the server's certificate is not trusted"},
	{exitForced, "a second signal ended it at once"},
}

// usageError marks what the caller of the program got wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// commandExit is how a command of the user's ended. Without a reason why there is
// nothing to say about it: that was the command's to do.
type commandExit struct {
	code int
	why  error
}

func (e commandExit) Error() string { return e.why.Error() }

func (e commandExit) Unwrap() error { return e.why }

// exitCode maps the cause of the end.
func exitCode(err error) int {
	var usage usageError
	var untrusted *session.UntrustedError
	var refused *session.Error
	var command commandExit
	switch {
	case errors.As(err, &command):
		return command.code
	case err == nil, errors.Is(err, context.Canceled):
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &untrusted):
		return exitUntrusted
	case errors.As(err, &refused) && refused.Advice() == wire.Never:
		return exitRefused
	}
	return exitFailure
}
