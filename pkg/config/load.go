package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/peterbourgon/ff/v3"
)

// A Source is where Load looks beyond the command line. The zero Source is the
// process's own environment, and no terminal to ask on.
type Source struct {
	LookupEnv func(string) (string, bool) // nil means os.LookupEnv

	// Prompt asks for the password, if there is none and nothing else is wrong.
	// Nil means that there is nobody to ask, so a missing password is an error.
	Prompt func(question string) (string, error)

	// Run says that the settings are for a command with a network of its own: ModeRun.
	Run bool

	// Tool says that they are for a command that uses the VPN itself: ModeTool.
	Tool bool
}

// ErrHelp is what Load returns, as it is, when -h is among the arguments.
var ErrHelp = flag.ErrHelp

// Load resolves the arguments (without the program's and the command's name),
// the environment and the config file. Its error holds everything that is wrong,
// a line each, and is nil only with a complete and valid Config.
func Load(args []string, src Source) (Config, error) {
	if src.LookupEnv == nil {
		src.LookupEnv = os.LookupEnv
	}
	l := newLoader(src)
	if err := l.readArgs(args); err != nil {
		return Config{}, err
	}
	l.readEnv()
	l.readFile()
	l.readAccount()
	l.parse()
	l.settle()
	for _, p := range l.draft.Config.check() {
		if src.Prompt == nil || p.text != noPassword {
			l.add(p)
		}
	}
	if len(l.problems) > 0 {
		return Config{}, join(l.problems)
	}
	if err := l.ask(); err != nil {
		return Config{}, err
	}
	l.draft.Settings = l.settings()
	return l.draft.Config, nil
}

// A place is where words come from, while they are read and in what is printed.
type place struct {
	origin Origin
	where  string
}

// An input collects the words given for one option. It never refuses one, so the
// flag package has no occasion to print it.
type input struct {
	place
	words    []string
	isSwitch bool
	now      *place // the loader's
}

func (in *input) given() bool      { return in.origin != FromDefault }
func (in *input) String() string   { return "" }
func (in *input) IsBoolFlag() bool { return in.isSwitch }
func (in *input) Set(word string) error {
	in.words = append(in.words, word)
	in.place = *in.now
	return nil
}

// loader is the state of one Load.
type loader struct {
	src      Source
	flags    *flag.FlagSet
	inputs   map[string]*input
	now      place // what is being read
	draft    draft
	problems []problem
	failed   map[string]bool // options that have a problem
}

func newLoader(src Source) *loader {
	l := &loader{
		src:    src,
		flags:  flag.NewFlagSet("", flag.ContinueOnError),
		inputs: map[string]*input{},
		failed: map[string]bool{},
	}
	l.flags.SetOutput(io.Discard)
	l.flags.Usage = func() {}
	for _, o := range options {
		in := &input{isSwitch: o.arg == "", now: &l.now, place: place{FromDefault, FromDefault.String()}}
		l.inputs[o.name] = in
		l.flags.Var(in, o.name, o.help)
	}
	return l
}

// readArgs fails only on what is no list of flags. Its errors show a flag's name,
// never another word: that may be a password gone astray.
func (l *loader) readArgs(args []string) error {
	rest, name, err := l.readFlags(args)
	if err != nil || len(rest) == 0 {
		return err
	}
	if in := l.inputs[name]; in != nil && in.isSwitch {
		return fmt.Errorf("-%s: is a switch and takes no word after it: give -%s or -%s=false", name, name, name)
	}
	return notAFlag(len(args) - len(rest))
}

func notAFlag(before int) error {
	return fmt.Errorf("argument %d is not a flag: write -NAME VALUE, or -NAME=VALUE", before+1)
}

// readFlags reads flags up to the first word that is none, and returns the rest and the name
// of the flag before it, if there is one.
func (l *loader) readFlags(args []string) (rest []string, name string, err error) {
	l.now = place{FromFlag, FromFlag.String()}
	err = l.flags.Parse(args)
	rest = l.flags.Args()
	used := len(args) - len(rest)
	if used > 0 && strings.HasPrefix(args[used-1], "-") {
		name, _, _ = strings.Cut(strings.TrimLeft(args[used-1], "-"), "=")
	}
	_, known := l.inputs[name] // the flag in trouble, if there is any
	switch {
	case err == nil:
		return rest, name, nil
	case errors.Is(err, flag.ErrHelp):
		return nil, "", ErrHelp
	case strings.HasPrefix(err.Error(), "bad flag syntax"):
		return nil, "", notAFlag(used)
	case known:
		return nil, "", fmt.Errorf("-%s: needs a value", name) // the one mistake left to a known flag
	}
	return nil, "", fmt.Errorf("-%s: no such flag; %s", name, hint(name))
}

// CutWords takes the words off that stand behind the flags. Its error is Load's about flags.
func CutWords(args []string) (flags, words []string, err error) {
	words, _, err = newLoader(Source{}).readFlags(args)
	return args[:len(args)-len(words)], words, err
}

// readEnv fills what the command line left open. ff could do it, but only from
// the process's own environment.
func (l *loader) readEnv() {
	for _, o := range options {
		in, name := l.inputs[o.name], envName(o.name)
		if word, ok := l.src.LookupEnv(name); ok && word != "" && !in.given() {
			l.now = place{FromEnv, name}
			_ = l.flags.Set(o.name, word) // an input refuses nothing
		}
	}
}

// readFile fills what is still open from the config file, if there is one.
func (l *loader) readFile() {
	words := l.inputs["config"].words
	if len(words) == 0 {
		return
	}
	path := words[len(words)-1]
	err := ff.Parse(l.flags, nil,
		ff.WithConfigFile(path),
		ff.WithConfigFileParser(func(r io.Reader, set func(name, value string) error) error {
			return l.parseFile(path, r, set)
		}))
	if err != nil {
		l.problem("config", err.Error())
	}
}

// parse turns words into values, or defaults where there are none.
func (l *loader) parse() {
	for _, o := range options {
		in := l.inputs[o.name]
		words := in.words
		switch {
		case !in.given() && o.def != "":
			words = []string{o.def}
		case o.value.list && !o.value.whole:
			words = strings.Split(strings.Join(words, ","), ",")
		}
		if !in.given() && o.def == "" {
			continue
		}
		if !o.value.list {
			words = words[len(words)-1:]
		}
		for _, word := range words {
			if o.value.list {
				word = strings.TrimSpace(word)
			}
			if err := o.value.set(&l.draft, word); err != nil {
				l.problem(o.name, err.Error())
			}
		}
	}
}

// ask prompts for the password, if it is needed and nothing else gave it.
func (l *loader) ask() error {
	c := &l.draft.Config
	if c.Run.Attach != "" || c.Auth.Method == Anonymous || c.Auth.Method == ByCertificate || c.Auth.Password.IsSet() || c.Auth.Hash.IsSet() {
		return nil
	}
	word, err := l.src.Prompt(fmt.Sprintf("Password for %s at %s: ", c.Auth.User, c.Server.Host))
	if err != nil {
		return fmt.Errorf("ask for the password: %w", err)
	}
	s, err := ParseSecret(word)
	if err != nil {
		return fmt.Errorf("the password is %w", err)
	}
	c.Auth.Password = s
	l.inputs["pass"].place = place{FromPrompt, FromPrompt.String()}
	return nil
}

func (l *loader) note(text string) { l.draft.Notes = append(l.draft.Notes, text) }
