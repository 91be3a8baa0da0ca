package proxy

import (
	"io"
	"net"
	"testing"
	"time"
)

func BenchmarkRelay(b *testing.B) {
	target := listenTCP(b, func(c *net.TCPConn) { io.Copy(io.Discard, struct{ io.Reader }{c}) })
	s := NewSOCKS5(Config{Dialer: &dialTo{addr: target}})
	c := connect(b, serve(b, s))
	send(b, c, hello+toName)
	io.CopyN(io.Discard, c, int64(len(helloReply+granted)))
	c.SetDeadline(time.Time{})
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}
