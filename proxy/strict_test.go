package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const (
	plainGet  = "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n"
	sizedPost = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 5\r\n\r\nhello"
	chunkPost = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n" +
		"5;a=b\r\nhello\r\n1\r\n\n\r\n0\r\nX: 1\r\n\r\n"
	bothPost = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)

// What could be understood in two ways is answered by 400 and an end, wherever on a
// connection it comes; what came before is answered first, and nothing of it reaches the
// target.
func TestHTTPSmugglingIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, bad string
		before    int // requests that are answered
	}{
		{"length and chunks", bothPost, 0},
		{"chunks and length", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH: 4\r\n\r\n0\r\n\r\n", 0},
		{"length and chunks, bare line ends", strings.ReplaceAll(bothPost, "\r\n", "\n"), 0},
		{"chunks in HTTP/1.0", "POST http://a.corp/ HTTP/1.0\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
		{"continued header", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n", 0},
		{"two lengths", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhello", 0},
		{"space before a colon", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length : 4\r\n\r\nhell", 0},
		{"a list of lengths", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4, 4\r\n\r\nhell", 0},
		{"a signed length", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: +4\r\n\r\nhell", 0},
		{"after others", plainGet + sizedPost + chunkPost + bothPost, 3},
	} {
		for _, piece := range []int{1 << 20, 7, 1} {
			t.Run(fmt.Sprintf("%s in pieces of %d", tt.name, piece), func(t *testing.T) {
				seen := 0
				o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
					seen++
					io.Copy(w, r.Body)
				})
				c := connect(t, o.addr)
				for b := tt.bad; b != ""; {
					n := min(piece, len(b))
					if _, err := io.WriteString(c, b[:n]); err != nil {
						break // the answer came already
					}
					b = b[n:]
				}
				br := bufio.NewReader(c)
				for i := range tt.before + 1 {
					res, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatal(err)
					}
					io.Copy(io.Discard, res.Body)
					want := 200
					if i == tt.before {
						want = 400
					}
					if res.StatusCode != want {
						t.Errorf("answer %d: got %d, want %d", i, res.StatusCode, want)
					}
				}
				if _, err := br.ReadByte(); err == nil {
					t.Error("the connection goes on")
				}
				if seen != tt.before {
					t.Errorf("the target saw %d requests, want %d", seen, tt.before)
				}
			})
		}
	}
}

// What is well formed passes, in whatever pieces it comes.
func TestFramingFollows(t *testing.T) {
	stream := "\r\n"[:0] + plainGet + chunkPost + sizedPost + strings.Replace(sizedPost, "hello", "\r\n\r\n ", 1) + plainGet
	for size := 1; size <= len(stream); size++ {
		var f framing
		for b := []byte(stream); len(b) > 0; {
			n := min(size, len(b))
			if good, err := f.follow(b[:n]); err != nil || good != n {
				t.Fatalf("in pieces of %d: got %d, %v", size, good, err)
			}
			b = b[n:]
		}
		if f.state != inHead || f.first || len(f.line) > 0 {
			t.Fatalf("in pieces of %d: ended amid a request", size)
		}
	}
}

// After CONNECT and Upgrade the bytes are somebody else's.
func TestFramingLeavesTunnelsAlone(t *testing.T) {
	for _, head := range []string{"CONNECT a.corp:80 HTTP/1.1\r\n\r\n", "GET http://a.corp/ HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"} {
		var f framing
		if _, err := f.follow([]byte(head + bothPost)); err != nil {
			t.Errorf("%q: %v", head, err)
		}
	}
}

// However it is cut, a stream is judged the same, and no more is kept than a line's beginning.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{plainGet + sizedPost, chunkPost + bothPost, bothPost, "CONNECT a:1 HTTP/1.1\r\n\r\n\x00", "\n\n\n", "POST / HTTP/1.0\nTransfer-Encoding: x\n\n"} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var whole framing
		good, why := whole.follow(b)
		if good > len(b) || why == nil && good != len(b) {
			t.Fatalf("%d of %d bytes are good", good, len(b))
		}
		var parts framing
		var partly error
		for rest := b; len(rest) > 0 && partly == nil; {
			n := min(int(size)+1, len(rest))
			_, partly = parts.follow(rest[:n])
			rest = rest[n:]
			if len(parts.line) > maxFramingLine {
				t.Fatalf("keeps %d bytes", len(parts.line))
			}
		}
		if why != partly {
			t.Errorf("whole: %v, in parts: %v", why, partly)
		}
	})
}
