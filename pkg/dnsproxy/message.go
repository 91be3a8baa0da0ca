package dnsproxy

import (
	"encoding/binary"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxMessage = 1<<16 - 1
	headerLen  = 12 // RFC 1035, 4.1.1
)

// Types of question that are no single answer (RFC 5936, RFC 1995).
const (
	typeIXFR dnsmessage.Type = 251
	typeAXFR dnsmessage.Type = 252
)

// A verdict is what is to become of a client's message.
type verdict uint8

const (
	ask    verdict = iota // it is a question to be passed on
	drop                  // it is nothing to answer
	refuse                // it is answered by us, with an error
)

// judge says what to do with a message, and with which error it is answered if it is.
func judge(msg []byte) (verdict, dnsmessage.RCode) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	switch {
	case err != nil || h.Response:
		return drop, 0
	case h.OpCode != 0:
		return refuse, dnsmessage.RCodeNotImplemented
	case binary.BigEndian.Uint16(msg[4:]) != 1:
		return refuse, dnsmessage.RCodeFormatError
	}
	q, err := p.Question()
	switch {
	case err != nil:
		return refuse, dnsmessage.RCodeFormatError
	case q.Type == typeAXFR || q.Type == typeIXFR:
		return refuse, dnsmessage.RCodeRefused
	}
	return ask, 0
}

// errorAnswer makes the answer to a message that has a header, saying only that. Its
// question is repeated if there is one that can be read.
func errorAnswer(msg []byte, code dnsmessage.RCode) []byte {
	id, flags := binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	h := dnsmessage.Header{ID: id, Response: true, OpCode: dnsmessage.OpCode(flags >> 11 & 0xf),
		RecursionDesired: flags&(1<<8) != 0, RecursionAvailable: true, RCode: code}
	m := dnsmessage.Message{Header: h}
	var p dnsmessage.Parser
	if _, err := p.Start(msg); err == nil {
		if q, err := p.Question(); err == nil {
			m.Questions = []dnsmessage.Question{q}
		}
	}
	b, err := m.Pack()
	if err != nil {
		m.Questions = nil
		b, _ = m.Pack() // a header alone cannot fail
	}
	return b
}

// answers reports whether msg is an answer to the question that was sent under id.
func answers(msg, question []byte, id uint16) bool {
	var got, want dnsmessage.Parser
	h, err := got.Start(msg)
	if err != nil || h.ID != id || !h.Response {
		return false
	}
	if _, err := want.Start(question); err != nil {
		return false
	}
	w, err := want.Question()
	if err != nil {
		return false
	}
	q, err := got.Question()
	if err != nil { // servers that do not understand at all may repeat none
		return h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented
	}
	return q.Type == w.Type && q.Class == w.Class && strings.EqualFold(q.Name.String(), w.Name.String())
}

// truncated reports whether an answer was cut.
func truncated(msg []byte) bool { return msg[2]&2 != 0 }

// lacking reports whether an answer says that this server cannot tell, so that another is
// worth asking.
func lacking(msg []byte) bool {
	code := dnsmessage.RCode(msg[3] & 0xf)
	return code == dnsmessage.RCodeServerFailure || code == dnsmessage.RCodeRefused || code == dnsmessage.RCodeNotImplemented
}

func setID(msg []byte, id uint16) { binary.BigEndian.PutUint16(msg, id) }
