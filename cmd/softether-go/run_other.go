//go:build !linux

package main

import (
	"context"
	"errors"
)

func runCommand(context.Context, []string, terminal) error {
	return errors.New("softether-go run needs Linux; the proxies (-socks5, -http) work everywhere")
}

func innerCommands() []command { return nil }

func ownSignals([]string) bool { return false }
