package proxy

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
)

// Types and flags of HTTP/2 frames (RFC 9113 section 6).
const (
	frameData, frameHeaders, frameReset, frameSettings = 0, 1, 3, 4
	flagEndStream, flagEndHeaders                      = 1, 4
)

func http2Frame(kind, flags byte, stream uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	return string(binary.BigEndian.AppendUint32(append(b, flags), stream)) + payload
}

// http2Request sends a request by frames of its own, and returns the body of the answer.
func http2Request(t testing.TB, c net.Conn, headers [][2]string) string {
	t.Helper()
	var block strings.Builder
	for _, h := range headers { // literal, not indexed, not compressed: RFC 7541 section 6.2.2
		block.WriteString("\x00" + string([]byte{byte(len(h[0]))}) + h[0] + string([]byte{byte(len(h[1]))}) + h[1])
	}
	send(t, c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+http2Frame(frameSettings, 0, 0, "")+
		http2Frame(frameHeaders, flagEndStream|flagEndHeaders, 1, block.String()))
	var body strings.Builder
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(c, head); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, binary.BigEndian.Uint32(head)>>8)
		if _, err := io.ReadFull(c, payload); err != nil {
			t.Fatal(err)
		}
		kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
		switch {
		case stream != 1:
			continue
		case kind == frameReset:
			t.Fatalf("the stream was reset: % x", payload)
		case kind == frameData:
			body.Write(payload)
		}
		if flags&flagEndStream != 0 && (kind == frameData || kind == frameHeaders) {
			return body.String()
		}
	}
}
