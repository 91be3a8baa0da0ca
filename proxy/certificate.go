package proxy

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"

	"softether-go/pkg/reread"
)

// A Certificate shows clients that the proxy is the right one. It is read from files, and
// again when they have changed, as those who renew certificates expect.
type Certificate struct {
	cert, key string // certificate with its chain, and key
	log       *slog.Logger
	files     *reread.Files
	current   atomic.Pointer[tls.Certificate]
}

// OpenCertificate reads a certificate and its key, both PEM. They may be one file.
func OpenCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{cert: certFile, key: keyFile, log: log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.files = reread.New(c.read, certFile, keyFile)
	if err := c.Reload(); err != nil {
		return nil, err
	}
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
func (c *Certificate) Reload() error { return c.files.Read() }

// read makes the files' contents count.
func (c *Certificate) read() error {
	cert, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.cert, c.key, err)
	}
	c.current.Store(&cert)
	return nil
}

// refresh reads the files anew if they have changed.
func (c *Certificate) refresh() {
	switch again, err := c.files.Refresh(); {
	case err != nil:
		c.log.Error("not read again, the one of before stays", "cause", err)
	case again:
		c.log.Info("the proxies' certificate read again", "file", c.cert)
	}
}
