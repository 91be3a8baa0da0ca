package account

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The text form of the official programs' settings: folders of typed items.
// (Mayaqua/Cfg.c, CfgBufTextToFolder and CfgFolderToBufTextEx)
//
//	declare NAME
//	{
//		string NAME VALUE
//		uint NAME VALUE      also uint64, bool (true or false), byte (base64)
//
//		declare NAME
//		{
//		}
//	}
//
// In names and values $ and two hexadecimal digits stand for a byte; $ alone is an
// empty one. Names are compared without regard to case.

// MaxFile is the longest file that is read, in bytes. Real ones have 2 to 10 thousand.
const MaxFile = 1 << 20

// maxDepth is how deep folders go. An account has two levels.
const maxDepth = 8

type folder struct {
	items   map[string]item    // by name in small letters
	folders map[string]*folder // likewise
}

type item struct {
	kind, text string
	line       int
}

func newFolder() *folder { return &folder{items: map[string]item{}, folders: map[string]*folder{}} }

// parseTree returns the folder named root.
func parseTree(b []byte) (*folder, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("it is longer than %d bytes", MaxFile)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("it is not UTF-8 text")
	}
	p := treeParser{open: []*folder{newFolder()}}
	text := strings.TrimPrefix(string(b), "\ufeff")
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if err := p.take(strings.Trim(line, " \t\r"), number); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	root := p.open[0].folders["root"]
	switch {
	case root == nil:
		return nil, errors.New(`it has no line "declare root"`)
	case len(p.open) > 1:
		return nil, errors.New("its end is missing")
	}
	return root, nil
}

// treeParser is inside the folders of open; the first one holds the root.
type treeParser struct {
	open []*folder
}

func (p *treeParser) take(line string, number int) error {
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	inside := len(p.open) > 1
	switch {
	case len(fields) == 0, strings.HasPrefix(line, "#"), line == "{":
		return nil
	case strings.EqualFold(fields[0], "declare") && len(fields) == 2:
		return p.declare(fields[1])
	case !inside:
		return nil // a banner, in whatever language
	case line == "}":
		p.open = p.open[:len(p.open)-1]
		return nil
	}
	// A word of an empty value is missing in no file that we have seen, and an item
	// has no fourth.
	kind := strings.ToLower(fields[0])
	if len(fields) != 3 || !isKind[kind] {
		return errors.New("is no setting")
	}
	name, err := unescape(fields[1])
	if err != nil {
		return err
	}
	value, err := unescape(fields[2])
	if err != nil {
		return err
	}
	p.open[len(p.open)-1].items[strings.ToLower(name)] = item{kind, value, number}
	return nil
}

var isKind = map[string]bool{"string": true, "uint": true, "uint64": true, "bool": true, "byte": true}

func (p *treeParser) declare(word string) error {
	name, err := unescape(word)
	if err != nil {
		return err
	}
	if len(p.open) > maxDepth {
		return errors.New("folders go deeper than any official program makes them")
	}
	f := newFolder()
	p.open[len(p.open)-1].folders[strings.ToLower(name)] = f
	p.open = append(p.open, f)
	return nil
}

// unescape is the reverse of escape. (Mayaqua/Cfg.c, CfgUnescape)
func unescape(s string) (string, error) {
	if s == "$" {
		return "", nil
	}
	if !strings.Contains(s, "$") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			b.WriteByte(s[i])
			continue
		}
		if len(s) < i+3 {
			return "", errors.New("ends within a $ and its two digits")
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil || n == 0 {
			return "", errors.New("has a $ without two hexadecimal digits")
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), nil
}

// escape writes control characters, blanks and the dollar by their numbers.
func escape(s string) string {
	if s == "" {
		return "$"
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '$' {
			fmt.Fprintf(&b, "$%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// A reader takes values out of a folder and keeps the first error. What is missing is
// the zero value, as for the official programs.
type reader struct {
	err error
}

func (r *reader) get(f *folder, name, kind string) (item, bool) {
	it, ok := f.items[strings.ToLower(name)]
	if ok && it.kind != kind {
		r.fail(it, name, "is no "+kind)
		return it, false
	}
	return it, ok
}

func (r *reader) fail(it item, name, why string) {
	if r.err == nil {
		r.err = fmt.Errorf("line %d: %s %s", it.line, name, why)
	}
}

// str takes text for people and for the network: one line, without control characters.
func (r *reader) str(f *folder, name string) string {
	it, _ := r.get(f, name, "string")
	if !printable(it.text) {
		r.fail(it, name, "holds a control character")
	}
	return it.text
}

func (r *reader) uint(f *folder, name string, most uint64) uint64 {
	it, ok := r.get(f, name, "uint")
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(it.text, 10, 32)
	if err != nil || n > most {
		r.fail(it, name, "is out of range")
	}
	return n
}

func (r *reader) bool(f *folder, name string) bool {
	it, _ := r.get(f, name, "bool")
	return strings.EqualFold(it.text, "true") || it.text == "1"
}

func (r *reader) bytes(f *folder, name string) []byte {
	it, _ := r.get(f, name, "byte")
	b, err := base64.StdEncoding.DecodeString(it.text)
	if err != nil {
		r.fail(it, name, "is not base64")
		return nil
	}
	return b
}

// A writer makes the text form.
type writer struct {
	bytes.Buffer
	depth int
}

func (w *writer) line(words ...string) {
	w.WriteString(strings.Repeat("\t", w.depth) + strings.Join(words, " ") + "\r\n")
}

func (w *writer) folder(name string, inside func()) {
	w.line("declare", escape(name))
	w.line("{")
	w.depth++
	inside()
	w.depth--
	w.line("}")
}

func (w *writer) str(name, value string)     { w.line("string", name, escape(value)) }
func (w *writer) uint(name string, n uint64) { w.line("uint", name, strconv.FormatUint(n, 10)) }
func (w *writer) bool(name string, b bool)   { w.line("bool", name, strconv.FormatBool(b)) }
func (w *writer) bytes(name string, b []byte) {
	w.line("byte", name, escape(base64.StdEncoding.EncodeToString(b)))
}
