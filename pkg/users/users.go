// Package users knows who may use the proxies, from a file: names, hashes of passwords,
// and for each user which destinations are allowed and how much of them.
//
// # Theory of operation
//
// The file is one that htpasswd could have written, with bcrypt's hashes. Lines that
// begin with a space belong to the user above:
//
//	# what htpasswd -nB alice, or softether-go proxy-user alice, prints
//	alice:$2y$10$Oq…
//	    allow .corp 80,443,8000-8100
//	    deny 10.9.0.0/16
//	    allow 10.0.0.0/8
//	    connections 50
//	    rate-down 2M
//
// allow and deny take a destination and, if not all ports are meant, ports and ranges
// of them. A destination is * for any, an address, a network, a name, or .NAME for NAME
// and all names below it. The first line that fits counts; who has such lines may reach
// nothing else, and who has none everything. A rule about a name fits only what a client
// asks for by name; one about addresses fits also the addresses of a name, each by
// itself. connections says how many tunnels may be open, and requests of HTTP under way,
// at once. rate-up and rate-down say how many bytes a second they may carry together, k,
// M and G being 1000, 1000 k and 1000 M. mac is the user's station where each has one of
// its own.
//
// A login computes bcrypt's hash, also for a name that is not in the file. What was right
// is remembered, by a digest under a key of this process that the hash and the password
// are part of, so that not every connection costs a tenth of a second.
//
// The file is looked at when somebody logs in, at most once a second, and read again when
// it is another one. If it is wrong the users stay those of before and one line says so.
// Who is no longer in it, or has another password there, loses what connections are open.
// Others keep theirs; new rules are for new connections, new limits for all.
//
// # Limits
//
// A file has at most 4 MiB, and a hash at most a cost of 16, about four seconds' work.
// Two hashes are computed at a time, and others wait for their turn. Of right logins
// between 2048 and 4096 are remembered. A login of an unknown user takes the time of the
// costliest hash in the file: where costs differ, time tells whose is lower.
package users

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"

	"softether-go/pkg/reread"
)

const hashers = 2 // hashes computed at a time: the tunnel wants the processor too

// Config says which file it is.
type Config struct {
	Path string
	Tags bool         // alice+anything logs in as alice, and is told apart by String
	Log  *slog.Logger // nil discards
}

// Users are those of a file.
type Users struct {
	cfg     Config
	file    *reread.Files
	table   atomic.Pointer[table]
	known   memory
	hashing chan struct{} // holds one for each hash that is being computed
}

// table is what one version of the file says. It does not change.
type table struct {
	users map[string]*user
	decoy []byte // a hash to compare with where there is no user
}

// Open reads a file. An error is one line for each mistake in it, with its number.
func Open(cfg Config) (*Users, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	u := &Users{cfg: cfg, hashing: make(chan struct{}, hashers)}
	rand.Read(u.known.key[:])
	u.table.Store(&table{})
	u.file = reread.New(u.read, cfg.Path)
	if err := u.Reload(); err != nil {
		return nil, err
	}
	return u, nil
}

// Reload reads the file, whether or not it has changed. On an error the users stay.
func (u *Users) Reload() error { return u.file.Read() }

// read makes the file's contents count.
func (u *Users) read() error {
	f, err := os.Open(u.cfg.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	list, err := parse(u.cfg.Path, b)
	if err != nil {
		return err
	}
	u.replace(list)
	return nil
}

// replace makes a new table of entries. Users who are as before stay the same.
func (u *Users) replace(list []*entry) {
	old, t := u.table.Load(), &table{users: make(map[string]*user)}
	most := 0
	for _, e := range list {
		was := old.users[e.name]
		switch {
		case was == nil:
			t.users[e.name] = &user{entry: e, account: newAccount(e.limits)}
		case was.text == e.text:
			t.users[e.name] = was
		default:
			was.account.set(e.limits)
			t.users[e.name] = &user{entry: e, account: was.account}
		}
		if cost, _ := bcrypt.Cost(e.hash); cost > most {
			most, t.decoy = cost, e.hash
		}
	}
	u.table.Store(t)
	for name, was := range old.users {
		if now := t.users[name]; now == nil || string(now.hash) != string(was.hash) {
			was.account.cut()
		}
	}
}

// refresh reads the file anew if it has changed.
func (u *Users) refresh() {
	switch again, err := u.file.Refresh(); {
	case err != nil:
		u.cfg.Log.Error("proxy users not read again, those of before stay", "cause", oneLine(err))
	case again:
		u.cfg.Log.Info("proxy users read again", "file", u.cfg.Path, "users", len(u.table.Load().users))
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// A Login is a user who has logged in. Logins that are equal are the same.
type Login struct {
	*user
	tag string // with Tags, what stood behind the name, + included
}

// String is the name that was logged in with.
func (l Login) String() string { return l.name + l.tag }

// MAC returns the station that the file names for the user, or nil.
func (l Login) MAC() net.HardwareAddr { return l.mac }

// Login returns whom a name and a password belong to. It may wait for its turn to
// compute a hash, at most until ctx ends.
func (u *Users) Login(ctx context.Context, name, password []byte) (Login, bool) {
	u.refresh()
	base, tag := u.split(string(name))
	t := u.table.Load()
	who, hash := t.users[base], t.decoy
	if who != nil {
		hash = who.hash
	}
	digest := u.known.digest(hash, password)
	if who != nil && u.known.has(digest) {
		return Login{who, tag}, true
	}
	select {
	case u.hashing <- struct{}{}:
	case <-ctx.Done():
		return Login{}, false
	}
	err := bcrypt.CompareHashAndPassword(hash, password)
	<-u.hashing
	if who == nil || err != nil {
		return Login{}, false
	}
	u.known.add(digest)
	return Login{who, tag}, true
}

// split takes a tag off a name.
func (u *Users) split(name string) (base, tag string) {
	if i := strings.IndexByte(name, '+'); u.cfg.Tags && i >= 0 {
		return name[:i], name[i:]
	}
	return name, ""
}

// Find returns whom a name belongs to that has logged in, as its String had it.
func (u *Users) Find(name string) (Login, bool) {
	base, tag := u.split(name)
	who := u.table.Load().users[base]
	return Login{who, tag}, who != nil
}

// remembered is half of how many right logins are remembered.
const remembered = 2048

// memory remembers right logins, the latest ones.
type memory struct {
	key [sha256.Size]byte

	mu       sync.Mutex                     // guards new and old
	new, old map[[sha256.Size]byte]struct{} // old is what new was when it was full
}

// digest tells nothing of the password to who does not know the key. A hash has its salt
// in it, so that no two users share a digest.
func (m *memory) digest(hash, password []byte) (d [sha256.Size]byte) {
	h := hmac.New(sha256.New, m.key[:])
	fmt.Fprintf(h, "%d:%s", len(hash), hash)
	h.Write(password)
	h.Sum(d[:0])
	return d
}

func (m *memory) has(d [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.new[d]; ok {
		return true
	}
	_, ok := m.old[d]
	if ok {
		m.put(d)
	}
	return ok
}

func (m *memory) add(d [sha256.Size]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(d)
}

// put is add for who has locked mu.
func (m *memory) put(d [sha256.Size]byte) {
	if m.new == nil || len(m.new) >= remembered {
		m.old, m.new = m.new, make(map[[sha256.Size]byte]struct{})
	}
	m.new[d] = struct{}{}
}

// Line returns a line of the file for a user and a password, the same that htpasswd -nB
// prints.
func Line(name, password string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	if len(password) == 0 || len(password) > maxPassword {
		return "", fmt.Errorf("a password has between 1 and %d bytes here", maxPassword)
	}
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", err
	}
	return name + ":" + string(h), nil
}
