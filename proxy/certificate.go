package proxy

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A Certificate shows clients that the proxy is the right one. It is read from files, and
// again when they have changed, as those who renew certificates expect.
type Certificate struct {
	files   [2]string // certificate with its chain, and key
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
	looked  atomic.Int64 // at the files, Unix nanoseconds

	mu   sync.Mutex // guards seen, and that one reads at a time
	seen [2]os.FileInfo
}

// lookEvery is how often the files are looked at, at most.
const lookEvery = time.Second

// OpenCertificate reads a certificate and its key, both PEM. They may be one file.
func OpenCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{files: [2]string{certFile, keyFile}, log: log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	c.looked.Store(time.Now().UnixNano())
	return c, nil
}

// TLS returns a configuration for Config.TLS.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.refresh()
			return c.current.Load(), nil
		},
	}
}

// Reload reads the files. On an error the certificate stays.
func (c *Certificate) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = c.look()
	return c.read()
}

// read makes the files' contents count. The caller has locked mu.
func (c *Certificate) read() error {
	cert, err := tls.LoadX509KeyPair(c.files[0], c.files[1])
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.files[0], c.files[1], err)
	}
	c.current.Store(&cert)
	return nil
}

// look returns what there is of the files.
func (c *Certificate) look() (info [2]os.FileInfo) {
	for i, f := range c.files {
		info[i], _ = os.Stat(f) // reading says what is wrong
	}
	return info
}

// refresh reads the files anew if they have changed.
func (c *Certificate) refresh() {
	now, last := time.Now().UnixNano(), c.looked.Load()
	if now-last < int64(lookEvery) || !c.looked.CompareAndSwap(last, now) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.look()
	if sameFile(info[0], c.seen[0]) && sameFile(info[1], c.seen[1]) {
		return
	}
	c.seen = info
	if err := c.read(); err != nil {
		c.log.Error("not read again, the one of before stays", "cause", err)
		return
	}
	c.log.Info("the proxies' certificate read again", "file", c.files[0])
}

// sameFile reports whether two looks at a file saw the same contents.
func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
