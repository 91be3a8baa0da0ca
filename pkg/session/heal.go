package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"softether-go/pkg/tlsconn"
	"softether-go/pkg/wire"
)

// A common server version (5.01.9674 with OpenSSL 3) never empties the error queue of
// its TLS library. A connection of a session that ends without TLS's notice, as a cut
// one does, leaves an error there, and from then on the session's thread takes every
// "nothing to read yet" of any connection for that error and closes it: it lets
// connections in that bring the session's key, and hangs up at once, until the session
// has timed out. (Mayaqua/Network.c, SecureRecv, as of that version)
//
// The library empties the queue itself whenever it handles a handshake message, and
// TLS 1.3 has one that may come at any time: KeyUpdate (RFC 8446, 4.6.3). So heal
// joins the session with a connection whose first words after the request to join
// are a KeyUpdate, which the session's thread reads before it can find nothing to
// read, and the notice of the end. crypto/tls sends no KeyUpdate, and could not go on
// after one that we have sent, which is why that connection is good for nothing else.

var errNoHeal = errors.New("the connection's TLS knows no KeyUpdate")

// heal makes the server forget an error that would end every connection of the session.
func (s *Session) heal(ctx context.Context) error {
	d := newDialer(s.cfg)
	d.Progress = func(Op) {}
	d.to, d.over, d.pinned = s.address, s.network, s.certificate
	defer d.close()
	err := d.heal(ctx, s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (d *dialer) heal(ctx context.Context, s *Session) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { d.raw.Close() })
	defer stop()
	var secrets bytes.Buffer
	config := pinnedConfig(d.Host, d.pinned)
	config.MinVersion = tls.VersionTLS13
	config.KeyLogWriter = &secrets
	d.tls = tlsconn.Client(d.raw, config)
	d.raw.SetDeadline(time.Now().Add(stepTimeout))
	if err := d.tls.HandshakeContext(ctx); err != nil {
		return errors.Join(errNoHeal, explainTLS(err))
	}
	d.br = bufio.NewReader(d.tls)
	last, err := lastWords(d.tls.ConnectionState().CipherSuite, secrets.String(), 2) // hello and what follows
	if err != nil {
		return err
	}
	if _, err := d.hello(); err != nil {
		return plainEnd(err)
	}
	p := wire.Join{SessionKey: s.welcome.SessionKey, Client: d.client()}.Pack()
	p.SetData("pencore", padding())
	if err := wire.WriteRequest(d.tls, d.server(), p); err != nil {
		return err
	}
	if _, err := d.raw.Write(last); err != nil {
		return err
	}
	reply, err := wire.ReadReply(d.br)
	if err != nil {
		return plainEnd(err)
	}
	if _, err := wire.ParseJoined(reply); err != nil {
		return err
	}
	d.raw.SetReadDeadline(time.Now().Add(closeGrace))
	io.Copy(io.Discard, d.raw) // until the server has understood
	return nil
}

// lastWords returns the records of a KeyUpdate and of the notice of the end, as the
// client sends them after n records of application data.
func lastWords(suite uint16, keyLog string, n uint64) ([]byte, error) {
	k, err := newClientKeys(suite, keyLog)
	if err != nil {
		return nil, err
	}
	update, err := k.seal(n, []byte{24, 0, 0, 1, 0}, 22) // key_update, update_not_requested
	if err != nil {
		return nil, err
	}
	if k.secret, err = k.expand("traffic upd", k.hash().Size()); err != nil { // RFC 8446, 7.2
		return nil, err
	}
	end, err := k.seal(0, []byte{1, 0}, 21) // warning, close_notify
	return append(update, end...), err
}

// clientKeys protect what a TLS 1.3 client sends.
type clientKeys struct {
	hash   func() hash.Hash
	keyLen int
	secret []byte
}

// newClientKeys takes the client's secret from lines as crypto/tls logs them.
func newClientKeys(suite uint16, keyLog string) (*clientKeys, error) {
	k := &clientKeys{}
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		k.hash, k.keyLen = sha256.New, 16
	case tls.TLS_AES_256_GCM_SHA384:
		k.hash, k.keyLen = sha512.New384, 32
	default:
		return nil, errNoHeal
	}
	for line := range strings.Lines(keyLog) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "CLIENT_TRAFFIC_SECRET_0" {
			continue
		}
		secret, err := hex.DecodeString(f[2])
		if err != nil || len(secret) != k.hash().Size() {
			return nil, fmt.Errorf("%w: its secret has %d bytes", errNoHeal, len(secret))
		}
		k.secret = secret
		return k, nil
	}
	return nil, errNoHeal
}

// expand is HKDF-Expand-Label without a context (RFC 8446, 7.1).
func (k *clientKeys) expand(label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
	return hkdf.Expand(k.hash, k.secret, string(append(info, 0)), n)
}

// seal returns content as the record number seq (RFC 8446, 5.2 and 5.3).
func (k *clientKeys) seal(seq uint64, content []byte, contentType byte) ([]byte, error) {
	key, err := k.expand("key", k.keyLen)
	if err != nil {
		return nil, err
	}
	nonce, err := k.expand("iv", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	var number [12]byte
	binary.BigEndian.PutUint64(number[4:], seq)
	for i := range nonce {
		nonce[i] ^= number[i]
	}
	plain := append(bytes.Clone(content), contentType)
	header := []byte{23, 3, 3, 0, byte(len(plain) + aead.Overhead())}
	return aead.Seal(header, nonce, plain, header[:5:5]), nil
}
