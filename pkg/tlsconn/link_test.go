package tlsconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// scriptConn reads from a buffer and writes to a list, or fails.
type scriptConn struct {
	net.Conn
	in     bytes.Buffer
	reads  int
	writes [][]byte
	fail   error
}

func (c *scriptConn) Read(b []byte) (int, error) {
	c.reads++
	return c.in.Read(b)
}

func (c *scriptConn) Write(b []byte) (int, error) {
	if c.fail != nil {
		return 0, c.fail
	}
	c.writes = append(c.writes, bytes.Clone(b))
	return len(b), nil
}

func TestWhatIsGatheredIsWrittenAtOnce(t *testing.T) {
	var c scriptConn
	l := newLink(&c)
	l.Write([]byte("at once"))
	l.begin()
	for range 5 {
		l.Write(make([]byte, 16<<10))
	}
	if len(c.writes) != 2 || len(c.writes[1]) != bufferLen {
		t.Fatalf("%d writes before the end", len(c.writes))
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if len(c.writes) != 3 || len(c.writes[2]) != 16<<10 {
		t.Errorf("%d writes", len(c.writes))
	}
	l.begin()
	if err := l.end(); err != nil || len(c.writes) != 3 {
		t.Errorf("an empty gathering wrote: %v", err)
	}
}

func TestNothingFollowsAFailedWrite(t *testing.T) {
	full := errors.New("full")
	c := scriptConn{fail: full}
	l := newLink(&c)
	l.begin()
	if _, err := l.Write([]byte("lost")); err != nil {
		t.Errorf("gathering: %v", err)
	}
	if err := l.end(); err != full {
		t.Errorf("end: %v", err)
	}
	c.fail = nil
	if _, err := l.Write([]byte("a record that nobody could decrypt")); err != full || len(c.writes) > 0 {
		t.Errorf("afterwards: %v, with %d writes", err, len(c.writes))
	}
}

func TestReadingAhead(t *testing.T) {
	var c scriptConn
	c.in.WriteString("onetwothree")
	l := newLink(&c)
	b := make([]byte, 3)
	for _, want := range []string{"one", "two"} {
		if n, err := l.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("read %q, %v", b[:n], err)
		}
	}
	if c.reads != 1 || l.r == l.w {
		t.Errorf("%d reads below", c.reads)
	}
	l.noWait = true
	rest := make([]byte, 10)
	n, err := l.Read(rest)
	if err != nil || string(rest[:n]) != "three" || l.r < l.w {
		t.Errorf("read %q, %v", rest[:n], err)
	}
	var none net.Error
	if _, err := l.Read(rest); !errors.As(err, &none) || !none.Timeout() || c.reads != 1 {
		t.Errorf("without waiting: %v after %d reads below", err, c.reads)
	}
	l.noWait = false
	if _, err := l.Read(rest); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}
