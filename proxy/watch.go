package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"time"
)

var errHungUp = errors.New("the client hung up")

// aLongTimeAgo is a deadline that ends any read at once.
var aLongTimeAgo = time.Unix(1, 0)

// watchAfter is how long a dial may take before the client is watched. Most are
// done by then and spare the goroutine, the read for nothing and the wake-ups.
const watchAfter = 50 * time.Millisecond

// A watch notices that a client hangs up while nothing is read from it, by reading
// ahead into the client's buffer. Nothing is lost: what was read stays buffered.
type watch struct {
	client net.Conn
	buf    *bufio.Reader
	cancel context.CancelCauseFunc
	begin  *time.Timer   // starts run
	done   chan struct{} // closed when run has ended
}

// watchClient returns a context that ends with errHungUp as cause when client, of
// which buf is the buffer, goes away. The watch is ended with stop, before
// anything else is read.
func watchClient(ctx context.Context, client net.Conn, buf *bufio.Reader) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{client: client, buf: buf, cancel: cancel, done: make(chan struct{})}
	w.begin = time.AfterFunc(watchAfter, w.run) // awaited in stop
	return ctx, w
}

func (w *watch) run() {
	defer close(w.done)
	for w.buf.Buffered() < w.buf.Size() {
		_, err := w.buf.Peek(w.buf.Buffered() + 1)
		switch {
		case err == nil:
			continue
		case isTimeout(err): // stop was called
			return
		case err == io.EOF && w.buf.Buffered() > 0:
			// A client that has sent all it has to say may close its half
			// and wait for the answer. One that has said nothing has left.
			return
		}
		w.cancel(errHungUp)
		return
	}
}

// stop ends the watch and returns what the client sent meanwhile.
func (w *watch) stop() []byte {
	if !w.begin.Stop() {
		_ = w.client.SetReadDeadline(aLongTimeAgo)
		<-w.done
		_ = w.client.SetReadDeadline(time.Time{})
	}
	w.cancel(nil)
	return buffered(w.buf)
}

// buffered returns a copy of what is in buf, so that buf can go.
func buffered(buf *bufio.Reader) []byte {
	b, _ := buf.Peek(buf.Buffered()) // cannot fail
	return append([]byte(nil), b...)
}
