package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A group is a heading of the usage text, in the order of the table.
type group string

const (
	connection      group = "Connection"
	tcpLinks        group = "TCP connections of the session"
	udpAcceleration group = "UDP acceleration"
	authentication  group = "Authentication"
	serverTrust     group = "Server trust"
	wayToServer     group = "The way to the server"
	addressing      group = "Addressing inside the tunnel"
	proxies         group = "Proxies"
	forwarding      group = "Forwards"
	splitting       group = "Beside the VPN"
	tapMode         group = "TAP mode"
	runMode         group = "Running a command (softether-go run)"
	reconnecting    group = "Reconnecting"
	service         group = "As a service"
	logging         group = "Logging"
)

// An option is one row of the table.
type option struct {
	group group
	name  string
	arg   string // what the value is called in the usage; empty for a switch
	def   string // as the user would write it
	help  string
	value value
}

// A value ties an option's text to the field it fills.
type value struct {
	set    func(d *draft, word string) error
	show   func(d *draft) string // empty if the field is zero
	list   bool                  // set adds an item; words are split at commas
	whole  bool                  // words of the list are not split
	secret bool
}

// draft is a Config in the making: with what the user said that a Config holds
// in another form.
type draft struct {
	Config

	hosts                   []hostForm
	port                    uint16
	plain, anonymous        bool
	configFile              string
	passFile, proxyPassFile string
	passHash                Secret
	passHashFile            string
	keyPasswordFile         string
	accountFile             string
	firstUse                bool
	knownServers            string

	proxy            ProxyURL
	proxyURLPass     Secret
	proxyURLPassFile string
}

// one fills a field with a single value.
func one[T any](parse func(string) (T, error), at func(*draft) *T) value {
	return value{
		set: func(d *draft, word string) error {
			v, err := parse(word)
			if err == nil {
				*at(d) = v
			}
			return err
		},
		show: func(d *draft) string {
			if v := reflect.ValueOf(at(d)).Elem(); v.IsZero() {
				return ""
			}
			return fmt.Sprint(*at(d))
		},
	}
}

// many fills a field with a list.
func many[T any](parse func(string) (T, error), at func(*draft) *[]T) value {
	return value{
		list: true,
		set: func(d *draft, word string) error {
			v, err := parse(word)
			if err == nil {
				*at(d) = append(*at(d), v)
			}
			return err
		},
		show: func(d *draft) string {
			var items []string
			for _, v := range *at(d) {
				items = append(items, fmt.Sprint(v))
			}
			return strings.Join(items, ",")
		},
	}
}

// hidden fills a field with a secret.
func hidden(at func(*draft) *Secret) value {
	v := one(ParseSecret, at)
	v.secret = true
	return v
}

// headers fills a field with lines that may hold commas and secrets.
func headers(at func(*draft) *[]Header) value {
	v := many(parseHeader, at)
	v.whole, v.secret = true, true
	v.show = func(d *draft) string {
		if len(*at(d)) == 0 {
			return ""
		}
		return redacted
	}
	return v
}

// order fills a switch that is written as a word.
func order(fastest func(*draft) *bool) value {
	v := one(parseOrder, fastest)
	v.show = func(d *draft) string {
		if *fastest(d) {
			return "fastest"
		}
		return ""
	}
	return v
}

// envName is the variable that stands for a flag.
func envName(flag string) string {
	return "SOFTETHER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// options is the table. Its rows are in the files options_*.go.
var options = slices.Concat(
	connectionOptions, linkOptions, udpOptions, loginOptions, trustOptions, wayOptions, addressOptions,
	proxyOptions, forwardOptions, splitOptions, tapOptions, runOptions, retryOptions, serviceOptions, logOptions,
)

func findOption(name string) (option, bool) {
	for _, o := range options {
		if o.name == name {
			return o, true
		}
	}
	return option{}, false
}

// hint says what an unknown name may have meant. It does not repeat the name.
func hint(name string) string {
	if near := nearest(name); near != "" {
		return "did you mean -" + near + "?"
	}
	return "-h lists all"
}

// nearest returns the known name closest to an unknown one, or none if that would
// be a guess: when more than a third and one letter are wrong, or more than four,
// and it is no beginning of a name either.
func nearest(name string) string {
	best, bestDistance := "", min(len(name)/3+1, 4)+1
	for _, o := range options {
		d := distance(name, o.name)
		if d < bestDistance && len(o.name) > 1 { // any letter is near to a letter
			best, bestDistance = o.name, d
		}
	}
	if best != "" || len(name) < 3 {
		return best
	}
	for _, o := range options {
		if strings.HasPrefix(o.name, name) {
			return o.name
		}
	}
	return ""
}

// distance counts the insertions, deletions and replacements from a to b
// (Levenshtein). Only a's first bytes count: no name is longer.
func distance(a, b string) int {
	const longest = 64
	a = a[:min(len(a), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
