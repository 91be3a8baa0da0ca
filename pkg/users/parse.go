package users

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	maxFile     = 4 << 20 // ten thousand users with rules
	maxMistakes = 10      // told of one file
	maxName     = 255     // RFC 1929
	maxPassword = 72      // what bcrypt looks at
	maxCost     = 16      // a login of four seconds
	hashLen     = 60      // of bcrypt's text
)

// An entry is what the file says of one user.
type entry struct {
	name   string
	text   string // its lines, to see whether they have changed
	hash   []byte
	rules  []rule
	limits limits
	mac    net.HardwareAddr

	line int // of the name
	said map[string]bool
}

// parse reads a file. Its errors name the line and repeat nothing that may be secret.
func parse(path string, b []byte) ([]*entry, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes: it is no file of users", path, maxFile)
	}
	p := parser{path: path, names: make(map[string]int)}
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // some editors' mark for UTF-8
	for line := range strings.SplitSeq(string(b), "\n") {
		p.number++
		if err := p.line(strings.TrimSuffix(line, "\r")); err != nil {
			p.mistake(p.number, err)
		}
		if len(p.mistakes) == maxMistakes {
			return nil, errors.Join(p.mistakes...)
		}
	}
	p.end()
	if len(p.list) == 0 && len(p.mistakes) == 0 {
		return nil, fmt.Errorf("%s has no user: add a line as softether-go proxy-user NAME prints it", path)
	}
	return p.list, errors.Join(p.mistakes...)
}

type parser struct {
	path     string
	number   int // of the line
	list     []*entry
	names    map[string]int // and their lines
	skip     bool           // the lines of a user that could not be read
	mistakes []error
}

func (p *parser) mistake(line int, err error) {
	p.mistakes = append(p.mistakes, fmt.Errorf("%s:%d: %w", p.path, line, err))
}

func (p *parser) line(line string) error {
	text := strings.TrimSpace(line)
	for i := range len(text) { // a comment begins a line, or has a space before it
		if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
			text = strings.TrimSpace(text[:i])
			break
		}
	}
	if text == "" {
		return nil
	}
	if !utf8.ValidString(line) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
		return errors.New("a character that is none of a text's")
	}
	if line[0] != ' ' && line[0] != '\t' {
		p.end()
		return p.user(text)
	}
	switch {
	case p.skip:
		return nil
	case len(p.list) == 0:
		return errors.New("this line begins with a space, so it belongs to a user, but there is none above it")
	}
	e := p.list[len(p.list)-1]
	e.text += text + "\n"
	return e.setting(strings.Fields(text))
}

// user begins an entry.
func (p *parser) user(text string) error {
	p.skip = true
	name, hash, ok := strings.Cut(text, ":")
	if !ok {
		return errors.New("neither NAME:HASH nor, with a space before it, a setting of the user above")
	}
	if err := checkName(name); err != nil {
		return err
	}
	if other, twice := p.names[name]; twice {
		return fmt.Errorf("the user %q is in line %d already", name, other)
	}
	if err := checkHash(hash); err != nil {
		return err
	}
	p.names[name] = p.number
	p.list = append(p.list, &entry{name: name, text: text + "\n", hash: []byte(hash), line: p.number, said: make(map[string]bool)})
	p.skip = false
	return nil
}

// end checks the entry that is complete.
func (p *parser) end() {
	if p.skip || len(p.list) == 0 {
		return
	}
	e := p.list[len(p.list)-1]
	for _, r := range e.rules {
		if r.allow {
			return
		}
	}
	if len(e.rules) > 0 {
		p.mistake(e.line, fmt.Errorf("%q has only deny lines, so may reach nothing at all: end them with allow *", e.name))
	}
}

// checkName refuses what a login cannot carry, and what tells users apart.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name before the colon is empty")
	case len(name) > maxName:
		return fmt.Errorf("a name of more than %d bytes", maxName)
	case strings.ContainsAny(name, ":+#") || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Errorf("the name %q has a space or one of : + # in it", name)
	}
	return nil
}

func checkHash(hash string) error {
	const remedy = "make it by softether-go proxy-user NAME, or htpasswd -nB NAME"
	if !strings.HasPrefix(hash, "$2") || len(hash) != hashLen {
		return errors.New("what stands behind the colon is no hash by bcrypt: " + remedy)
	}
	cost, err := bcrypt.Cost([]byte(hash))
	if err == nil {
		const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
		if strings.Trim(hash[7:], alphabet) != "" || !strings.Contains("aby", hash[2:3]) || hash[6] != '$' {
			err = errors.New("a stray character")
		}
	}
	switch {
	case err != nil:
		return errors.New("what stands behind the colon is no hash by bcrypt: " + remedy)
	case cost > maxCost:
		return fmt.Errorf("a hash of cost %d, which takes minutes at each login: make one of at most %d", cost, maxCost)
	}
	return nil
}

// setting reads a line that belongs to the user.
func (e *entry) setting(words []string) error {
	name, args := words[0], words[1:]
	if name == "allow" || name == "deny" {
		r, err := parseRule(name == "allow", args)
		if err == nil {
			e.rules = append(e.rules, r)
		}
		return err
	}
	set, known := settings[name]
	switch {
	case !known:
		return errors.New("no such setting: there are allow, deny, connections, rate-up, rate-down and mac")
	case e.said[name]:
		return fmt.Errorf("%s is there twice for this user", name)
	case len(args) != 1:
		return fmt.Errorf("%s takes one word", name)
	}
	e.said[name] = true
	if err := set(e, args[0]); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

var settings = map[string]func(*entry, string) error{
	"connections": func(e *entry, word string) error {
		n, err := strconv.ParseUint(word, 10, 31)
		if err != nil || n == 0 {
			return errors.New("give a number from 1")
		}
		e.limits.connections = int(n)
		return nil
	},
	"rate-up":   func(e *entry, word string) (err error) { e.limits.up, err = parseRate(word); return err },
	"rate-down": func(e *entry, word string) (err error) { e.limits.down, err = parseRate(word); return err },
	"mac": func(e *entry, word string) error {
		mac, err := net.ParseMAC(word)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
			return errors.New("give the address of one station, such as 5e:00:00:00:00:01")
		}
		e.mac = mac
		return nil
	},
}

// minRate lets a frame's worth through in a moment.
const minRate = 1000

// parseRate reads bytes a second.
func parseRate(word string) (uint64, error) {
	factor := uint64(1)
	switch {
	case strings.HasSuffix(word, "k"):
		factor = 1e3
	case strings.HasSuffix(word, "M"):
		factor = 1e6
	case strings.HasSuffix(word, "G"):
		factor = 1e9
	}
	if factor > 1 {
		word = word[:len(word)-1]
	}
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil || n*factor < minRate {
		return 0, fmt.Errorf("give bytes a second, at least %d, such as 500k or 2M", minRate)
	}
	return n * factor, nil
}

// A rule allows or denies destinations. Of prefix and name at most one is set; neither
// means any destination.
type rule struct {
	allow  bool
	prefix netip.Prefix
	name   string // in small letters, without a dot at its end
	below  bool   // also names below it
	ports  []ports
}

// ports are a range with both ends; a rule without any is for all.
type ports struct{ from, to uint16 }

func parseRule(allow bool, args []string) (r rule, err error) {
	r.allow = allow
	if len(args) == 0 || len(args) > 2 {
		return r, errors.New("give a destination and, if not all are meant, its ports: allow .corp 80,443")
	}
	if r, err = r.to(args[0]); err != nil || len(args) == 1 {
		return r, err
	}
	for item := range strings.SplitSeq(args[1], ",") {
		from, to, isRange := strings.Cut(item, "-")
		if !isRange {
			to = from
		}
		p := ports{parsePort(from), parsePort(to)}
		if p.from == 0 || p.to < p.from {
			return r, fmt.Errorf("%q is no port and no range of ports: write 80,443,8000-8100", item)
		}
		r.ports = append(r.ports, p)
	}
	return r, nil
}

// parsePort returns 0 for what is none.
func parsePort(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '+' {
		return 0
	}
	return uint16(n)
}

// to returns r for a destination.
func (r rule) to(word string) (rule, error) {
	if word == "*" {
		return r, nil
	}
	if strings.Contains(word, "/") {
		prefix, err := netip.ParsePrefix(word)
		switch {
		case err != nil:
			return r, fmt.Errorf("%q is no network: write it like 10.0.0.0/8", word)
		case prefix != prefix.Masked():
			return r, fmt.Errorf("%s is not the beginning of a network: %s is", word, prefix.Masked())
		}
		r.prefix = prefix
		return r, nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(word, "[]")); err == nil {
		if addr.Zone() != "" {
			return r, fmt.Errorf("%q: a zone means nothing behind the tunnel", word)
		}
		r.prefix = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		return r, nil
	}
	name := strings.TrimSuffix(strings.ToLower(word), ".")
	name, r.below = strings.CutPrefix(name, ".")
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(c rune) bool {
		return c <= ' ' || strings.ContainsRune(`*:,[]%\@?"`, c)
	}) || strings.Contains(name, "..") {
		return r, fmt.Errorf("%q is no destination: write *, an address, a network, a name, or .NAME for it and all names below", word)
	}
	if strings.Trim(name, "0123456789.") == "" {
		return r, fmt.Errorf("%q is neither an address nor a name", word)
	}
	r.name = name
	return r, nil
}
