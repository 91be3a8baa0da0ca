package users

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"softether-go/pkg/leaktest"
	"softether-go/pkg/reread"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// hashOf is cheap, as nobody attacks it.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

// A file of users in the test's directory.
type file struct {
	t    *testing.T
	path string
	log  strings.Builder
	mu   sync.Mutex
}

func (f *file) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func (f *file) said(text string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Count(f.log.String(), text)
}

func (f *file) set(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	// The clock of the file system may be coarser than a test is fast.
	stamp := time.Now().Add(time.Duration(len(text)+f.said("")) * time.Millisecond)
	if err := os.Chtimes(f.path, stamp, stamp); err != nil {
		f.t.Fatal(err)
	}
}

func open(t *testing.T, text string, tags bool) (*Users, *file) {
	t.Helper()
	f := &file{t: t, path: filepath.Join(t.TempDir(), "users")}
	f.set(text)
	u, err := Open(Config{Path: f.path, Tags: tags, Log: slog.New(slog.NewTextHandler(f, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return u, f
}

func login(u *Users, name, password string) (Login, bool) {
	return u.Login(context.Background(), []byte(name), []byte(password))
}

func TestLoginWantsNameAndPassword(t *testing.T) {
	u, _ := open(t, "alice:"+hashOf(t, "one")+"\nbob:"+hashOf(t, "two")+"\n", false)
	for _, row := range []struct {
		name, password string
		ok             bool
	}{
		{"alice", "one", true},
		{"bob", "two", true},
		{"alice", "two", false},
		{"alice", "", false},
		{"bob", "one", false},
		{"carol", "one", false},
		{"", "", false},
		{"Alice", "one", false},
		{"alice+tag", "one", false},
	} {
		for range 2 { // the second time from memory
			if l, ok := login(u, row.name, row.password); ok != row.ok || ok && l.String() != row.name {
				t.Errorf("%s with %q: got %v, want %v", row.name, row.password, ok, row.ok)
			}
		}
	}
}

// htpasswd writes $2y$, others $2a$ and $2b$; all mean the same.
func TestHashesOfOtherPrograms(t *testing.T) {
	for _, version := range []string{"$2a$", "$2b$", "$2y$"} {
		hash := strings.Replace(hashOf(t, "secret"), "$2a$", version, 1)
		u, _ := open(t, "alice:"+hash+"\n", false)
		if _, ok := login(u, "alice", "secret"); !ok {
			t.Errorf("%s is not accepted", version)
		}
	}
}

func TestTagsTellLoginsOfOneUserApart(t *testing.T) {
	u, _ := open(t, "alice:"+hashOf(t, "one")+"\n connections 2\n", true)
	a, ok1 := login(u, "alice", "one")
	b, ok2 := login(u, "alice+web", "one")
	c, ok3 := login(u, "alice+web", "one")
	if !ok1 || !ok2 || !ok3 || a == b || b != c || b.String() != "alice+web" {
		t.Fatalf("got %v %v %v", a, b, c)
	}
	for _, l := range []Login{a, b} {
		if _, err := l.Enter(nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Enter(nil); err == nil {
		t.Error("the limit of a user is not one for all tags")
	}
}

// What was right is remembered, what was wrong is not, and how much is remembered has a bound.
func TestRightLoginsAreRemembered(t *testing.T) {
	const costly = 8 // some milliseconds
	h, err := bcrypt.GenerateFromPassword([]byte("one"), costly)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := open(t, "alice:"+string(h)+"\n", false)
	took := func(name, password string) time.Duration {
		begun := time.Now()
		login(u, name, password)
		return time.Since(begun)
	}
	// What a busy machine adds is not in the shortest of several.
	shortest := func(f func() time.Duration) time.Duration { return min(f(), f(), f(), f(), f()) }
	check := shortest(func() time.Duration {
		begun := time.Now()
		if err := bcrypt.CompareHashAndPassword(h, []byte("one")); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	})
	if first := took("alice", "one"); first < check/2 {
		t.Errorf("the first login took %v, a check %v", first, check)
	}
	if later := shortest(func() time.Duration { return took("alice", "one") }); later > check/10 {
		t.Errorf("later logins took %v, a check %v", later, check)
	}
	for name, again := range map[string]time.Duration{"a wrong password": took("alice", "two"), "no user": took("bob", "one")} {
		if again < check/4 {
			t.Errorf("%s was told in %v, a check takes %v", name, again, check)
		}
	}
	for i := range 3 * remembered {
		u.known.add([32]byte{byte(i), byte(i >> 8), 1})
	}
	if n := len(u.known.new) + len(u.known.old); n > 2*remembered {
		t.Errorf("remembered %d logins, want at most %d", n, 2*remembered)
	}
}

// Who waits for a turn to compute a hash gives up with the context.
func TestLoginEndsWithItsContext(t *testing.T) {
	u, _ := open(t, "alice:"+hashOf(t, "one")+"\n", false)
	for range hashers {
		u.hashing <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, ok := u.Login(ctx, []byte("alice"), []byte("one")); ok {
		t.Error("logged in without a hash computed")
	}
}

func TestChangedFileCountsAtTheNextLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := hashOf(t, "one"), hashOf(t, "two")
		u, f := open(t, "alice:"+one+"\nbob:"+two+"\n deny 10.0.0.0/8\n allow *\n", false)
		cut := make(map[string]int)
		enter := func(name, password string) Login {
			t.Helper()
			l, ok := login(u, name, password)
			if !ok {
				t.Fatalf("%s is not there", name)
			}
			if _, err := l.Enter(func() { cut[name]++ }); err != nil {
				t.Fatal(err)
			}
			return l
		}
		again := func() { time.Sleep(reread.Every) }
		alice, bob := enter("alice", "one"), enter("bob", "two")

		// Another setting of bob's; alice is as before.
		f.set("alice:" + one + "\nbob:" + two + "\n connections 1\n")
		again()
		if l, ok := login(u, "alice", "one"); !ok || l != alice {
			t.Error("a user who is as before is another one")
		}
		l, ok := login(u, "bob", "two")
		if !ok || l == bob || l.Permits("", netip.MustParseAddr("10.0.0.1"), 80) != nil {
			t.Error("the new rules do not count")
		}
		if _, err := l.Enter(nil); err == nil {
			t.Error("the new limit does not count what was open")
		}
		if len(cut) != 0 {
			t.Errorf("cut off: %v", cut)
		}

		// A broken file changes nothing and is told of once.
		f.set("alice:nothing\n")
		for range 3 {
			again()
			if _, ok := login(u, "alice", "one"); !ok {
				t.Error("a broken file took a user away")
			}
		}
		if n := f.said("those of before stay"); n != 1 {
			t.Errorf("told of the broken file %d times:\n%s", n, f.log.String())
		}

		// A file that is gone too.
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			again()
			login(u, "alice", "one")
		}
		if n := f.said("those of before stay"); n != 2 {
			t.Errorf("told of the lost file %d times", n-1)
		}

		// Another password, and a user less.
		f.set("alice:" + two + "\n")
		again()
		if _, ok := login(u, "alice", "one"); ok {
			t.Error("the old password still counts")
		}
		if _, ok := login(u, "bob", "two"); ok {
			t.Error("who is not in the file any more logs in")
		}
		if cut["alice"] != 1 || cut["bob"] != 1 {
			t.Errorf("cut off: got %v, want each once", cut)
		}
		if err := u.Reload(); err != nil {
			t.Error(err)
		}
	})
}

func TestRulesFirstMatchCounts(t *testing.T) {
	const some = `
	deny  secret.corp # a comment
	allow .corp 80,443,8000-8100
	deny  10.9.0.0/16
	allow 10.0.0.0/8
	allow 2001:db8::/32 22
	deny  old.lab
	allow .lab
`
	u, _ := open(t, "alice:"+hashOf(t, "x")+some+"free:"+hashOf(t, "x")+"\n", false)
	alice, _ := login(u, "alice", "x")
	free, _ := login(u, "free", "x")
	for _, row := range []struct {
		host, addr string
		port       uint16
		ok         bool
	}{
		{"files.corp", "", 80, true},
		{"FILES.Corp.", "", 443, true},
		{"corp", "", 8050, true},
		{"secret.corp", "", 80, false},
		{"a.secret.corp", "", 80, true},
		{"files.corp", "", 81, true}, // it depends on its address
		{"files.corp", "10.1.1.1", 81, true},
		{"files.corp", "10.9.1.1", 81, false},
		{"files.corp", "192.0.2.1", 81, false},
		{"files.corp", "192.0.2.1", 80, true}, // allowed by its name
		{"notcorp", "192.0.2.1", 80, false},
		{"", "10.9.0.1", 80, false},
		{"", "10.8.0.1", 80, true},
		{"", "::ffff:10.9.0.1", 80, false},
		{"", "2001:db8::1", 22, true},
		{"", "2001:db8::1", 23, false},
		{"", "192.0.2.1", 80, false},
		{"old.lab", "192.0.2.1", 80, false},
		{"new.lab", "192.0.2.1", 80, true},
	} {
		var addr netip.Addr
		if row.addr != "" {
			addr = netip.MustParseAddr(row.addr)
		}
		if err := alice.Permits(row.host, addr, row.port); (err == nil) != row.ok {
			t.Errorf("%s %s port %d: got %v, want permitted %v", row.host, row.addr, row.port, err, row.ok)
		}
		if err := free.Permits(row.host, addr, row.port); err != nil {
			t.Errorf("a user without rules: %v", err)
		}
	}
}

// A name that no rule about addresses comes before is refused without a question.
func TestNamesAreRefusedUnresolved(t *testing.T) {
	u, _ := open(t, "alice:"+hashOf(t, "x")+"\n deny .corp\n allow 10.0.0.0/8 80\n allow .lab\n", false)
	l, _ := login(u, "alice", "x")
	if l.Permits("files.corp", netip.Addr{}, 80) == nil {
		t.Error("a denied name is resolved")
	}
	if l.Permits("other.example", netip.Addr{}, 22) == nil {
		t.Error("a name is resolved that no address could make allowed")
	}
}

func TestHashIsALineOfTheFile(t *testing.T) {
	line, err := Line("alice", "secret")
	if err != nil {
		t.Fatal(err)
	}
	u, _ := open(t, line+"\n", false)
	if _, ok := login(u, "alice", "secret"); !ok {
		t.Errorf("%s does not log in", line)
	}
	for _, row := range [][2]string{{"a:b", "x"}, {"", "x"}, {"a+b", "x"}, {"alice", ""}, {"alice", strings.Repeat("x", 73)}} {
		if _, err := Line(row[0], row[1]); err == nil {
			t.Errorf("%q is accepted", row)
		}
	}
}

// What a file says wrong is told by line, without a word that may be a secret.
func TestMistakesHaveTheirLine(t *testing.T) {
	good := "alice:" + hashOf(t, "x") + "\n"
	for _, row := range []struct{ text, want string }{
		{"", "has no user"},
		{"# nothing\n\n", "has no user"},
		{"alice\n", "f:1: neither NAME:HASH"},
		{"\n\n allow *\n", "f:3: this line begins with a space"},
		{"alice:secret\n", "f:1: what stands behind the colon is no hash by bcrypt"},
		{"alice:{SHA}secret\n", "f:1: what stands behind"},
		{"alice:$apr1$secret\n", "f:1: what stands behind"},
		{strings.Replace(good, "$04$", "$17$", 1), "f:1: a hash of cost 17"},
		{strings.Replace(good, "$2a$", "$2z$", 1), "f:1: what stands behind"},
		{":x\n", "f:1: the name before the colon is empty"},
		{"a b:x\n", `f:1: the name "a b" has a space`},
		{"a+b:x\n", `f:1: the name "a+b" has`},
		{strings.Repeat("x", 256) + ":x\n", "f:1: a name of more than 255"},
		{good + good, `f:2: the user "alice" is in line 1 already`},
		{good + " allow\n", "f:2: give a destination"},
		{good + " allow * 80 90\n", "f:2: give a destination"},
		{good + " allow * 0\n", `f:2: "0" is no port`},
		{good + " allow * 80-79\n", `f:2: "80-79" is no port`},
		{good + " allow * 80,\n", `f:2: "" is no port`},
		{good + " allow * +80\n", `f:2: "+80" is no port`},
		{good + " allow * 65536\n", `f:2: "65536" is no port`},
		{good + " allow 10.0.0.1/8\n", "f:2: 10.0.0.1/8 is not the beginning of a network: 10.0.0.0/8 is"},
		{good + " allow 10.0.0.0/33\n", `f:2: "10.0.0.0/33" is no network`},
		{good + " allow 10.0.0\n", `f:2: "10.0.0" is neither`},
		{good + " allow fe80::1%eth0\n", "f:2:"},
		{good + " allow *.corp\n", `f:2: "*.corp" is no destination`},
		{good + " allow corp:80\n", `f:2: "corp:80" is no destination`},
		{good + " allow .\n", `f:2: "." is no destination`},
		{good + " deny .corp\n", `f:1: "alice" has only deny lines`},
		{good + " connections 0\n", "f:2: connections: give a number"},
		{good + " connections\n", "f:2: connections takes one word"},
		{good + " connections 1\n connections 2\n", "f:3: connections is there twice"},
		{good + " rate-up 10\n", "f:2: rate-up: give bytes a second"},
		{good + " rate-down 5T\n", "f:2: rate-down: give bytes a second"},
		{good + " mac 01:00:00:00:00:01\n", "f:2: mac: give the address of one station"},
		{good + " password secret\n", "f:2: no such setting"},
		{good + "\x00", "f:2: a character"},
		{good + "\xff:x", "f:2: a character"},
	} {
		_, err := parse("f", []byte(row.text))
		if err == nil || !strings.HasPrefix(strings.TrimPrefix(err.Error(), "f "), row.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want %q", row.text, err, row.want)
		}
	}
	if _, err := parse("f", []byte(strings.Repeat("x\n", 100))); err == nil || strings.Count(err.Error(), "\n") != maxMistakes-1 {
		t.Errorf("of a hundred mistakes: got %v", err)
	}
	if _, err := parse("f", make([]byte, maxFile+1)); err == nil {
		t.Error("a file without an end is read")
	}
}

func FuzzParse(f *testing.F) {
	hash := "$2y$04$" + strings.Repeat("a", 53)
	for _, seed := range []string{
		"alice:" + hash + "\n",
		"\ufeff# users\r\nalice:" + hash + "\r\n\tallow .corp 80,443,8000-8100\r\n\tdeny *\r\n",
		"a:" + hash + "\n allow 10.0.0.0/8\n allow [2001:db8::1] 22\n connections 5\n rate-up 2M\n rate-down 1G\n mac 5e:00:00:00:00:01\nb:" + hash,
		"a:b\n allow x\n\n deny",
		" deny *\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parse("f", b)
		if (err == nil) != (len(list) > 0 && err == nil) {
			t.Fatal("neither users nor an error")
		}
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "f") {
					t.Errorf("a line without the file: %q", line)
				}
			}
			return
		}
		for _, e := range list {
			if e.name == "" || strings.ContainsAny(e.name, ":+\n ") || len(e.hash) != hashLen {
				t.Errorf("accepted %q with %q", e.name, e.hash)
			}
			u := &user{entry: e, account: newAccount(e.limits)}
			for _, addr := range []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")} {
				if err := u.Permits("files.corp", addr, 80); err != nil && len(e.rules) == 0 {
					t.Error("refused without a rule")
				}
			}
			again, err := parse("f", []byte(e.text2()))
			if err != nil || len(again) != 1 || fmt.Sprint(again[0].rules) != fmt.Sprint(e.rules) || again[0].limits != e.limits {
				t.Errorf("%q does not mean the same a second time: %v", e.text2(), err)
			}
		}
	})
}

// text2 is the entry as a file of its own.
func (e *entry) text2() string {
	return strings.ReplaceAll(strings.TrimSuffix(e.text, "\n"), "\n", "\n ")
}
