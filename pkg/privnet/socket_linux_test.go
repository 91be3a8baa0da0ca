package privnet

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"softether-go/pkg/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// sockets returns two that are connected.
func sockets(t *testing.T) (a, b *Socket) {
	t.Helper()
	fa, fb, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = NewSocket(fa); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = NewSocket(fb); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

func TestMessagesComeWholeAndInOrderWithTheirFiles(t *testing.T) {
	a, b := sockets(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	long := strings.Repeat("x", maxMessage/2)
	for i, m := range []order{{Signal: 1}, {Signal: 2}} {
		var files []*os.File
		if i == 1 {
			files = append(files, w)
		}
		if err := a.Send(m, files...); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Send(answer{Error: long}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var first, second order
	files, err := b.Receive(&first)
	if err != nil || len(files) != 0 || first.Signal != 1 {
		t.Errorf("got %+v with %d files, %v", first, len(files), err)
	}
	files, err = b.Receive(&second)
	if err != nil || len(files) != 1 || second.Signal != 2 {
		t.Fatalf("got %+v with %d files, %v", second, len(files), err)
	}
	io.WriteString(files[0], "through it")
	files[0].Close()
	if got, err := io.ReadAll(r); string(got) != "through it" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	var third answer
	if _, err := b.Receive(&third); err != nil || third.Error != long {
		t.Errorf("got %d bytes, %v, want %d", len(third.Error), err, len(long))
	}
	a.Close()
	if _, err := b.Receive(&third); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %v, want io.EOF", err)
	}
}

func TestMessagesThatAreTooLongAreNotSent(t *testing.T) {
	a, _ := sockets(t)
	if err := a.Send(answer{Error: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("want an error")
	}
}

func TestWhatIsNoMessageIsAnError(t *testing.T) {
	a, b := sockets(t)
	for _, text := range []string{"{", "[]", "\x00", `{"Signal":"x"}`, `{"Signal":1}{}`} {
		if _, err := a.c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		var o order
		if _, err := b.Receive(&o); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// Whatever the other process sends, it ends in a message or an error.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"Spec":{"MAC":"XgAAAAAB","IPv6":true,"Capture":false}}`))
	f.Add([]byte(`{"Signal":15}`))
	f.Add([]byte(`{"Seq":1,"Apply":{"Address":"10.0.0.5/24","Gateway":"10.0.0.1","MTU":1400},"Dial":""}`))
	f.Add([]byte(`{"Exited":{"Code":1,"Why":""}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) == 0 || len(message) > maxMessage {
			return
		}
		fa, fb, err := Pair()
		if err != nil {
			t.Skip(err)
		}
		a, err := NewSocket(fa)
		if err != nil {
			t.Skip(err)
		}
		defer a.Close()
		b, err := NewSocket(fb)
		if err != nil {
			t.Skip(err)
		}
		defer b.Close()
		for _, m := range []any{&order{}, &request{}, &answer{}, &hello{}, &Event{}} {
			if _, err := a.c.Write(message); err != nil {
				t.Fatal(err)
			}
			files, err := b.Receive(m)
			closeAll(files)
			if errors.Is(err, io.EOF) {
				t.Errorf("%q ended the connection", message)
			}
		}
	})
}

func TestASocketThatNobodyListensAtIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "office.sock")
	if _, err := Connect(path); err == nil {
		t.Fatal("connected to nobody")
	}
	dead, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	dead.l.SetUnlinkOnClose(false) // as if it had been killed
	dead.Close()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "somebody listens") {
		t.Errorf("a second one: got %v", err)
	}
	c, err := Connect(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is left: %v", err)
	}
}
