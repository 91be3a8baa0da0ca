package tlsconn

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/iotest"

	"softether-go/pkg/session/sessiontest"
)

type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// What follows a record is left where it is, however the bytes come.
func TestRecordsEndWhereTheyEnd(t *testing.T) {
	first := append([]byte{23, 3, 3, 0, 3}, "abc"...)
	empty := []byte{23, 3, 3, 0, 0}
	second := append([]byte{23, 3, 3, 1, 0}, bytes.Repeat([]byte("x"), 256)...)
	all := bytes.Join([][]byte{first, empty, second}, nil)
	for name, wrap := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
		src := bytes.NewReader(append(bytes.Clone(all), "plain"...))
		r := Records(readConn{r: wrap(src)})
		var got []byte
		buf := make([]byte, 4096)
		for len(got) < len(all) {
			n, err := r.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
		}
		rest, _ := io.ReadAll(src)
		if !bytes.Equal(got, all) || string(rest) != "plain" {
			t.Errorf("%s: read %d bytes of %d, left %q", name, len(got), len(all), rest)
		}
	}
}

func socketPair() (near, far net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	far, err = ln.Accept()
	return near, far, err
}

// TLS of both versions hands the stream over at a byte's border.
func TestTLSCanEnd(t *testing.T) {
	cert := sessiontest.Certificate(t, nil)
	for _, version := range versions {
		near, far, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan struct{})
		go func() {
			defer far.Close()
			server := Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
			server.Write([]byte("secret"))
			far.Write([]byte("plain"))
			close(sent)
		}()
		client := Client(Records(near), &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		<-sent // so that all is there to be read at once
		buf := make([]byte, 100)
		n, err := client.Read(buf)
		if err != nil || string(buf[:n]) != "secret" {
			t.Fatalf("inside TLS: %q, %v", buf[:n], err)
		}
		rest, err := io.ReadAll(near)
		if err != nil || string(rest) != "plain" {
			t.Errorf("after TLS %x: %q, %v", version, rest, err)
		}
		near.Close()
	}
}
