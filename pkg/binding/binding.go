// Package binding is about ports of this machine, where package net alone does not do what
// one who names an address expects.
//
// Network keeps 0.0.0.0 to IPv4. A UDPConn answers from the address that it was asked at.
// A Patient listener waits until there are descriptors again. OwnNetwork knows the
// machine's addresses. Explain says what to do when a port cannot be had: the systems' own
// errors name the cause, not the remedy, and Windows has numbers of its own for it.
package binding

import (
	"errors"
	"syscall"
)

// advices are what to do about an error of bind. Windows has numbers of its own
// for these, beyond every other system's (winsock2.h).
var advices = []struct {
	errno, windows syscall.Errno
	advice         string
}{
	{syscall.EADDRINUSE, 10048, "the port is in use: end the program that holds it, or choose another port"},
	{syscall.EACCES, 10013, "no permission for this port: choose one above 1023"},
	{syscall.EADDRNOTAVAIL, 10049, "this machine has no such address: choose one it has, such as 127.0.0.1"},
}

// Explain returns an error that reads as what to do about one of bind(2) and keeps it as
// the cause; others it returns as they are.
func Explain(err error) error {
	for _, b := range advices {
		if errors.Is(err, b.errno) || errors.Is(err, b.windows) {
			return &adviceError{b.advice, err}
		}
	}
	return err
}

// An adviceError reads as its advice alone and keeps the cause.
type adviceError struct {
	advice string
	cause  error
}

func (e *adviceError) Error() string { return e.advice }
func (e *adviceError) Unwrap() error { return e.cause }
