package config

import (
	"fmt"
	"strings"
	"unicode"
)

const (
	usageWidth  = 100 // columns
	usageIndent = 29  // where the help begins: two past the longest flag and its value
)

// Usage returns the text of -h on the flags, grouped. The caller puts above it
// what the program and its commands are.
func Usage() string {
	var b strings.Builder
	var last group
	for _, o := range options {
		if o.group != last {
			if last != "" {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%s:\n", o.group)
			last = o.group
		}
		left := strings.TrimRight("  -"+o.name+" "+o.arg, " ")
		for i, line := range wrap(o.meaning(), usageWidth-usageIndent) {
			if i > 0 {
				left = ""
			}
			fmt.Fprintf(&b, "%-*s%s\n", usageIndent, left, line)
		}
	}
	b.WriteString("\n")
	for _, line := range wrap(usageFooter, usageWidth) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

const usageFooter = "Every flag is also a variable (-pass-file: SOFTETHER_PASS_FILE) and a line of the -config file " +
	"(pass-file /etc/vpn.pass). Flags beat variables, which beat the file. A switch is turned off with -NAME=false. " +
	"Lists take commas, and as flags and in the file they may be repeated."

// meaning is the help with what follows from the rest of the row.
func (o option) meaning() string {
	text := o.help
	if o.value.list && !o.value.whole {
		text += " (list)"
	}
	if o.def != "" && o.arg != "" {
		text += fmt.Sprintf(" (default %s)", o.def)
	}
	return text
}

// wrap breaks text into lines at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimLeft(line+" "+word, " ")
	}
	return append(lines, line)
}

// MarkdownTable returns the same table for the README.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| flag | variable | default | meaning |\n|---|---|---|---|\n")
	var last group
	for _, o := range options {
		if o.group != last {
			fmt.Fprintf(&b, "| **%s** | | | |\n", o.group)
			last = o.group
		}
		def, help := o.def, o.help
		if def != "" {
			def = "`" + def + "`"
		}
		if o.value.list && !o.value.whole {
			help += " (list)"
		}
		left := strings.TrimRight("-"+o.name+" "+o.arg, " ")
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", left, envName(o.name), def, strings.ReplaceAll(help, "|", `\|`))
	}
	return b.String()
}

// settings lists what became of each option.
func (l *loader) settings() []Setting {
	var all []Setting
	for _, o := range options {
		in := l.inputs[o.name]
		s := Setting{Name: o.name, Value: o.value.show(&l.draft), Origin: in.origin, Where: in.where}
		if s.Value == "" {
			s.Value = o.def // what a zero field stands for
		}
		all = append(all, s)
	}
	return all
}

// Lines returns the resolved settings as a config file that gives the same Config,
// with the origin of each as a comment. Passwords are redacted and stand in
// comments, as does what the file format cannot say.
func (c Config) Lines() string {
	var b strings.Builder
	for _, s := range c.Settings {
		if s.Value == "" {
			continue
		}
		line := s.Name + " " + s.Value
		if name, value, err := parseLine(line); err != nil || name != s.Name || value != s.Value || s.Value == redacted {
			line = "# " + printable(line)
		}
		fmt.Fprintf(&b, "%-40s # %s\n", line, printable(s.Where))
	}
	return b.String()
}

// printable keeps a path with a line break in it on its line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
