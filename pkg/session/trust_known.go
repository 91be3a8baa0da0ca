package session

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// KnownServers remembers the public keys of servers in a file, and believes each
// server by the key that it had at first: trust on first use, as ssh has it. Names,
// dates and authorities do not matter then.
//
// The file has a line for each server, "HOST:PORT sha256:HEX", the SHA-256 of the
// SubjectPublicKeyInfo, so that a certificate renewed for the same key is no change.
// Lines that begin with # are comments, and stay. A line that is neither stops every
// login: what cannot be read may be what would have warned.
//
// The file is replaced as a whole, under a lock, so that programs may share it; it and
// its directory are made as needed, for the user alone. A server that is known already
// needs neither the lock nor a file that can be written.
type KnownServers struct {
	Path string
	Log  *slog.Logger // nil discards
}

const (
	maxKnown = 1 << 20 // bytes of a file; a line has about 100
	// lockPatience is for the few milliseconds in which another program adds a line.
	lockPatience = 5 * time.Second
	lockPause    = 20 * time.Millisecond
)

// keyHash is the SHA-256 of a public key.
type keyHash [sha256.Size]byte

func (h keyHash) String() string { return "sha256:" + hex.EncodeToString(h[:]) }

// check is for tls.Config.VerifyConnection, when a server at address shows itself.
// All errors are *UntrustedError: with a file that cannot be used, nobody is known.
func (k *KnownServers) check(address string, state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0]
	if err := k.know(address, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)); err != nil {
		return &UntrustedError{Certificate: leaf, Err: err}
	}
	return nil
}

func (k *KnownServers) know(address string, got keyHash) error {
	if known, err := k.compare(address, got); known || err != nil {
		return err
	}
	unlock, err := k.lock()
	if err != nil {
		return fmt.Errorf("-known-servers: %w", err)
	}
	defer unlock()
	// Another program may have been faster.
	if known, err := k.compare(address, got); known || err != nil {
		return err
	}
	if err := k.add(address, got); err != nil {
		return fmt.Errorf("-known-servers: %w", err)
	}
	if k.Log != nil {
		k.Log.Warn("server seen for the first time; its key is trusted from now on", "server", address, "key", got, "file", k.Path)
	}
	return nil
}

// compare looks the server up. An unknown one is no error.
func (k *KnownServers) compare(address string, got keyHash) (known bool, err error) {
	b, err := k.read()
	if err != nil {
		return false, fmt.Errorf("-known-servers: %w", err)
	}
	want, line, err := findKnown(b, canonical(address))
	switch {
	case err != nil:
		return false, fmt.Errorf("-known-servers: %s:%d: %w", k.Path, line, err)
	case line == 0:
		return false, nil
	case want == got:
		return true, nil
	}
	return true, &ChangedError{Server: address, Known: want.String(), Seen: got.String(), File: k.Path, Line: line}
}

// ChangedError says that a server has another key than when it was first seen.
type ChangedError struct {
	Server, Known, Seen string
	File                string
	Line                int
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("THE SERVER'S KEY HAS CHANGED: %s had %s and now has %s; somebody may be in between; "+
		"ask the server's administrator, and only if it is to be so, delete line %d of %s", e.Server, e.Known, e.Seen, e.Line, e.File)
}

// read returns the file, or nothing if there is none yet.
func (k *KnownServers) read() ([]byte, error) {
	f, err := os.Open(k.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKnown+1))
	if len(b) > maxKnown {
		err = fmt.Errorf("%s is longer than %d bytes: it is no file of known servers", k.Path, maxKnown)
	}
	return b, err
}

// findKnown returns a server's key and its line, counted from 1; line 0 if the server
// is not in b. With an error, line is the one that is wrong.
func findKnown(b []byte, address string) (key keyHash, line int, err error) {
	number := 0
	for text := range bytes.SplitSeq(b, []byte("\n")) {
		number++
		fields := strings.Fields(string(text))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		digits, ok := "", false
		if len(fields) == 2 {
			digits, ok = strings.CutPrefix(fields[1], "sha256:")
		}
		raw, err := hex.DecodeString(digits)
		if !ok || err != nil || len(raw) != len(keyHash{}) {
			return keyHash{}, number, errors.New("is not HOST:PORT sha256: and 64 hex digits: correct the line or delete it")
		}
		if line == 0 && canonical(fields[0]) == address {
			key, line = keyHash(raw), number
		}
	}
	return key, line, nil
}

// canonical is how addresses compare: names know no upper case, and their final dot
// says nothing.
func canonical(address string) string {
	at := strings.LastIndexByte(address, ':')
	if at < 0 {
		return strings.ToLower(address)
	}
	return strings.ToLower(strings.TrimSuffix(address[:at], ".") + address[at:])
}

// add puts a line at the file's end. The caller holds the lock.
func (k *KnownServers) add(address string, key keyHash) error {
	b, err := k.read()
	if err != nil {
		return err
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	b = fmt.Appendf(b, "%s %s\n", canonical(address), key)
	path := k.Path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // or the new file would take the link's place
	}
	return replaceFile(path, b)
}

// replaceFile writes a file for the user alone that is there as a whole or not at all.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// lock keeps other programs from adding to the file, and makes its directory.
func (k *KnownServers) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(k.Path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(k.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockPatience); !tryLock(f); {
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("another program holds %s for too long: end it", f.Name())
		}
		<-time.After(lockPause)
	}
	return func() { f.Close() }, nil // the lock goes with the file
}
