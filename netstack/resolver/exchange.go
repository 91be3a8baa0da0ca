package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// udpSize is the most a server may send over UDP to one that offers no EDNS
// (RFC 1035 section 4.2.1). Some send more; there is no harm in reading it.
const udpSize = 1500

// result is what one attempt at one server came to.
type result struct {
	answer answer
	err    error
}

// exchangeAll puts q to the servers until one answers. The next server is asked
// when the one before failed or took longer than stagger; all attempts under way
// count until the end.
func (r *Resolver) exchangeAll(ctx context.Context, servers []netip.AddrPort, q dnsmessage.Question) (answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	total := rounds * len(servers)
	results := make(chan result, total)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before waiting

	started, ended := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	var last error
	for ended < total {
		select {
		case <-ctx.Done():
			return answer{}, cut(ctx, last)
		case <-next.C:
			if started == total {
				continue
			}
			server := servers[started%len(servers)]
			started++
			wg.Go(func() {
				a, err := r.exchange(ctx, server, q)
				results <- result{a, err}
			})
			next.Reset(stagger)
		case res := <-results:
			ended++
			if res.err == nil {
				return res.answer, nil
			}
			if last == nil || errors.Is(last, errTimeout) {
				last = res.err
			}
			// A server that fails at once is not asked again at once.
			if started < len(servers) {
				next.Reset(0)
			}
		}
	}
	return answer{}, last
}

// cut returns why a lookup whose context ended has no answer.
func cut(ctx context.Context, last error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case last != nil:
		return last
	}
	return errTimeout
}

// exchange asks one server once: over UDP, then over TCP if the answer was cut.
func (r *Resolver) exchange(ctx context.Context, server netip.AddrPort, q dnsmessage.Question) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	a, err := r.over(ctx, "udp", server, q)
	if errors.Is(err, errTruncated) {
		a, err = r.over(ctx, "tcp", server, q)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errTimeout
		}
		return answer{}, fmt.Errorf("ask %s: %w", server, err)
	}
	return a, nil
}

// over asks server on a connection of its own, so each question has its own
// source port (RFC 5452 section 9.2).
func (r *Resolver) over(ctx context.Context, network string, server netip.AddrPort, q dnsmessage.Question) (answer, error) {
	conn, err := r.dial(ctx, network, server)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	if network == "tcp" {
		return overTCP(conn, binary.BigEndian.Uint16(id[:]), q)
	}
	return overUDP(conn, binary.BigEndian.Uint16(id[:]), q)
}

// overUDP waits for the datagram that answers q. Others are forged or late, and
// what waits ends by the deadline, not by their number.
func overUDP(conn net.Conn, id uint16, q dnsmessage.Question) (answer, error) {
	query, err := appendQuery(make([]byte, 0, 512), id, q)
	if err != nil {
		return answer{}, err
	}
	if _, err := conn.Write(query); err != nil {
		return answer{}, err
	}
	buf := make([]byte, udpSize)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return answer{}, err
		}
		a, err := parseAnswer(buf[:n], id, q)
		if errors.Is(err, errMismatch) || errors.Is(err, errMalformed) {
			continue
		}
		return a, err
	}
}

// overTCP reads exactly one message.
func overTCP(conn net.Conn, id uint16, q dnsmessage.Question) (answer, error) {
	query, err := appendQuery(make([]byte, 2, 512), id, q)
	if err != nil {
		return answer{}, err
	}
	binary.BigEndian.PutUint16(query, uint16(len(query)-2))
	if _, err := conn.Write(query); err != nil {
		return answer{}, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return answer{}, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return answer{}, err
	}
	a, err := parseAnswer(msg, id, q)
	if errors.Is(err, errTruncated) {
		err = fmt.Errorf("%w: cut over TCP too", errMalformed)
	}
	return a, err
}
