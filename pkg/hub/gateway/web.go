package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const (
	// maxBytes bounds what one request can ask for: 64 GiB.
	maxBytes = 64 << 30
	// pageLine is what the stream of /bytes repeats.
	pageLine = "softether-go carries this line through a virtual hub, frame by frame.\n"
)

// pages is the web site of the gateway.
func (g *Gateway) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", g.front)
	mux.HandleFunc("GET /bytes", sendBytes)
	mux.HandleFunc("POST /sink", sink)
	return mux
}

// front is the page of the demo.
func (g *Gateway) front(w http.ResponseWriter, r *http.Request) {
	text := fmt.Sprintf("You reached %s behind the hub. Your address here is %s.", r.Host, strings.Split(r.RemoteAddr, ":")[0])
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>softether-go</title><h1>It works</h1><p>%s</p><p><a href=\"/bytes?n=100000000\">100 MB to download</a></p>\n", html.EscapeString(text))
		return
	}
	fmt.Fprintf(w, "It works. %s\n", text)
}

// Pattern yields the endless stream of which /bytes sends the first n bytes.
type Pattern struct{ at int }

// Read never fails.
func (p *Pattern) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m := copy(b[n:], pageBlock[p.at:])
		p.at = (p.at + m) % len(pageBlock)
		n += m
	}
	return n, nil
}

// pageBlock is many lines, so that Read copies in large pieces.
var pageBlock = strings.Repeat(pageLine, 1000)

// sendBytes sends as many bytes as asked for.
func sendBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		http.Error(w, "ask for /bytes?n=NUMBER", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	io.CopyN(w, &Pattern{}, n)
}

// sink takes everything and says what it was.
func sink(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r.Body, maxBytes))
	if err != nil {
		http.Error(w, "the body broke off", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d %s\n", n, hex.EncodeToString(h.Sum(nil)))
}
