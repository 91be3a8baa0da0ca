package rudp

import (
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	hashes "hash"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"

	"softether-go/pkg/rc4"
	"softether-go/pkg/wire"
)

const (
	bulkPad = 31 // bytes at most, one at least
	// bulkBehind is how far a frame may be behind the newest. (RUDP_BULK_SEQ_NO_RANGE)
	bulkBehind = 16384
	// bulkNumbers is where numbers end that can be.
	bulkNumbers = 0xf000000000000000
	// maxFrame is what fits into a datagram of ours beside all the rest.
	maxFrame = 1600
)

// bulk seals and opens frames. (Mayaqua/Network.c, RUDPBulkSend, RUDPProcessBulkRecvPacket)
type bulk struct {
	send, recv cipher.AEAD // the second version; nil in the first

	sendKey, recvKey   hash
	sendHMAC, recvHMAC hashes.Hash // recvHMAC is the receiver's alone
	useHMAC            atomic.Bool

	mu   sync.Mutex // guards the fields below
	next uint64
	out  []byte // a datagram under construction
	tx   []byte

	newest uint64 // the receiver's alone
	sum    []byte
}

func newBulk(k wire.BulkKeys) (*bulk, error) {
	b := &bulk{next: 1, out: make([]byte, 0, maxPacket+maxFrame), tx: make([]byte, 0, maxPacket+maxFrame)}
	switch {
	case len(k.Send) == hashLen && len(k.Recv) == hashLen:
		copy(b.sendKey[:], k.Send)
		copy(b.recvKey[:], k.Recv)
		b.sendHMAC, b.recvHMAC = hmac.New(sha1.New, k.Send), hmac.New(sha1.New, k.Recv)
		b.useHMAC.Store(k.HMAC)
		return b, nil
	case len(k.Send) == chacha20poly1305.KeySize && len(k.Recv) == chacha20poly1305.KeySize:
		var err1, err2 error
		b.send, err1 = chacha20poly1305.New(k.Send)
		b.recv, err2 = chacha20poly1305.New(k.Recv)
		return b, errors.Join(err1, err2)
	}
	return nil, fmt.Errorf("R-UDP: keys for frames of %d and %d bytes, which no version has", len(k.Send), len(k.Recv))
}

// seal returns a frame as a datagram. The caller holds mu.
func (k *bulk) seal(frame []byte) []byte {
	if k.send != nil {
		return k.sealAEAD(frame)
	}
	b := append(k.out[:0], make([]byte, headLen)...)
	b = k.appendInner(b, frame)
	rand.Read(b[hashLen:headLen])
	var c rc4.Cipher
	c.Init(mixed(k.sendKey[:], b[hashLen:headLen]))
	c.XOR(b[headLen:])
	if k.useHMAC.Load() {
		k.sendHMAC.Reset()
		k.sendHMAC.Write(b[hashLen:])
		k.sendHMAC.Sum(b[:0])
		return b
	}
	copy(b, k.sendKey[:])
	sum := sha1.Sum(b)
	copy(b, sum[:])
	return b
}

func (k *bulk) sealAEAD(frame []byte) []byte {
	b := k.out[:chacha20poly1305.NonceSize]
	rand.Read(b)
	nonce := b
	b = k.appendInner(b, frame)
	return k.send.Seal(b[:len(nonce)], nonce, b[len(nonce):], nil)
}

// appendInner appends what is encrypted.
func (k *bulk) appendInner(b, frame []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, k.next)
	k.next++
	b = append(b, frame...)
	return appendPadding(b, 1+mathrand.IntN(bulkPad))
}

// open returns the frame in a datagram, in place. Of what is none it changes nothing,
// at least if it is of the first version.
func (k *bulk) open(b []byte) (frame []byte, ok bool) {
	if k.recv != nil {
		const n = chacha20poly1305.NonceSize
		if len(b) < n+k.recv.Overhead() {
			return nil, false
		}
		inner, err := k.recv.Open(b[n:n], b[:n], b[n:], nil)
		if err != nil {
			return nil, false
		}
		return k.inner(inner)
	}
	if len(b) <= headLen || !k.verify(b) {
		return nil, false
	}
	var c rc4.Cipher
	c.Init(mixed(k.recvKey[:], b[hashLen:headLen]))
	b = b[headLen:]
	c.XOR(b)
	return k.inner(b)
}

// verify takes both kinds of signatures until the server has used HMAC.
func (k *bulk) verify(b []byte) bool {
	if !k.useHMAC.Load() && signed(b, k.recvKey, nil) {
		return true
	}
	k.recvHMAC.Reset()
	k.recvHMAC.Write(b[hashLen:])
	k.sum = k.recvHMAC.Sum(k.sum[:0])
	if subtle.ConstantTimeCompare(b[:hashLen], k.sum) != 1 {
		return false
	}
	k.useHMAC.Store(true)
	return true
}

func (k *bulk) inner(b []byte) ([]byte, bool) {
	b, ok := unpadded(b)
	if !ok || len(b) < 8 {
		return nil, false
	}
	n := binary.BigEndian.Uint64(b)
	if n == 0 || n >= bulkNumbers || n+bulkBehind < k.newest {
		return nil, false
	}
	k.newest = max(k.newest, n)
	return b[8:], true
}

// sink is where received frames go.
type sink struct {
	deliver func(frame []byte) error
	failed  chan error

	mu   sync.Mutex // guards over; held while a frame is delivered
	over bool
}

// SetBulk makes SendFrame and RunFrames work, with keys that server and client share.
func (c *Conn) SetBulk(k wire.BulkKeys) error {
	b, err := newBulk(k)
	if err == nil {
		c.bulk.Store(b)
	}
	return err
}

// SendFrame sends a frame beside the stream. What the network does not take is lost. An
// error means that the stream has ended.
func (c *Conn) SendFrame(frame []byte) error {
	k := c.bulk.Load()
	if k == nil || len(frame) > maxFrame {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	b := c.over.wrap(k.tx[:0], k.seal(frame))
	if _, err := c.sock.Write(b); errors.Is(err, net.ErrClosed) {
		return err
	}
	c.stats.framesOut.Add(1)
	return nil
}

// RunFrames hands the server's frames to deliver until ctx ends or deliver fails. A
// frame is lent for the call. While nobody runs it frames are dropped.
func (c *Conn) RunFrames(ctx context.Context, deliver func(frame []byte) error) error {
	s := &sink{deliver: deliver, failed: make(chan error, 1)}
	c.sink.Store(s)
	defer func() {
		c.sink.CompareAndSwap(s, nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.over = true
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.failed:
		return err
	}
}

// deliver runs on the receiving goroutine.
func (c *Conn) deliver(frame []byte) {
	s := c.sink.Load()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	if err := s.deliver(frame); err != nil {
		s.over = true
		s.failed <- err
	}
}
