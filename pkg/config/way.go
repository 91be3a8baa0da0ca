package config

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ProxyURL is a proxy on the way to the server. The zero value is none.
type ProxyURL struct {
	Scheme   string // http, https, socks4, socks4a, socks5 or socks5h
	Host     string // a DNS name or an IP address without brackets
	Port     uint16
	User     string // empty means no login
	Password Secret // not set without User
}

// proxyPorts are the ports that a URL without one means, by scheme.
var proxyPorts = map[string]uint16{"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

// String returns the URL, with the user and without the password.
func (p ProxyURL) String() string {
	if p.Scheme == "" {
		return ""
	}
	u := url.URL{Scheme: p.Scheme, Host: net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))}
	if p.User != "" {
		u.User = url.User(p.User)
	}
	return u.String()
}

func (p ProxyURL) isHTTP() bool { return strings.HasPrefix(p.Scheme, "http") }

// parseProxyURL repeats nothing of s: a password may be in it.
func parseProxyURL(s string) (ProxyURL, error) {
	const want = "give one like http://proxy.example:3128 or socks5h://127.0.0.1:1080"
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return ProxyURL{}, errors.New("is not a URL: " + want)
	}
	p := ProxyURL{Scheme: u.Scheme, Port: proxyPorts[u.Scheme], User: u.User.Username()}
	switch {
	case p.Port == 0:
		return ProxyURL{}, errors.New("begins with none of http, https, socks4, socks4a, socks5 and socks5h: " + want)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return ProxyURL{}, errors.New("has more than a scheme, a host and a port: " + want)
	}
	if p.Host, err = checkHost(u.Hostname()); err != nil {
		return ProxyURL{}, fmt.Errorf("names no proxy: %w", err)
	}
	if port := u.Port(); port != "" {
		if p.Port, err = parsePort(port); err != nil {
			return ProxyURL{}, errors.New("has no port that can be: give 1 to 65535")
		}
	}
	if word, ok := u.User.Password(); ok {
		if p.Password, err = ParseSecret(word); err != nil {
			return ProxyURL{}, fmt.Errorf("its password is %w", err)
		}
	}
	return p, p.checkUser()
}

// checkUser refuses what the proxy's protocol cannot carry.
func (p ProxyURL) checkUser() error {
	switch {
	case p.User == "" && p.Password.IsSet():
		return errors.New("has a password and no user")
	case len(p.User) > maxName || !utf8.ValidString(p.User) || strings.ContainsFunc(p.User, unicode.IsControl):
		return errors.New("has a user that is too long or holds a control character")
	case p.isHTTP() && strings.Contains(p.User, ":"):
		return errors.New("has a user with a colon, which HTTP proxy logins cannot carry")
	case strings.HasPrefix(p.Scheme, "socks4") && p.Password.IsSet():
		return errors.New("has a password, which SOCKS4 cannot carry: use socks5, if the proxy has it")
	}
	return nil
}

// Header is one line for HTTP proxies. It may be a login, so its value is a secret.
type Header struct {
	Name  string
	Value Secret
}

// String returns a placeholder, like that of any secret.
func (h Header) String() string { return redacted }

// parseHeader repeats nothing of s: a login may be in it.
func parseHeader(s string) (Header, error) {
	name, value, ok := strings.Cut(s, ":")
	value = strings.TrimSpace(value)
	switch {
	case !ok || name == "" || strings.ContainsFunc(name, notInToken):
		return Header{}, errors.New(`is not a header: give "NAME: VALUE"`)
	case strings.ContainsFunc(value, unicode.IsControl):
		return Header{}, errors.New("has a control character in its value")
	case slices.ContainsFunc([]string{"Host", "Content-Length", "Transfer-Encoding", "Trailer"},
		func(own string) bool { return strings.EqualFold(own, name) }):
		return Header{}, errors.New("is one that follows from the request and cannot be chosen")
	}
	return Header{name, NewSecret(value)}, nil
}

// notInToken follows RFC 9110, 5.6.2.
func notInToken(r rune) bool {
	letter := 'a' <= r|0x20 && r|0x20 <= 'z'
	return !letter && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// ByProxy reports whether a server is to be reached through Proxy. With FromEnv it
// looks at the environment as it was at its first call, and understands NO_PROXY as
// net/http's clients do: those are the same rules as golang.org/x/net/http/httpproxy,
// which would bring tables of Unicode as large as the rest of this package.
func (w Way) ByProxy(host string, port uint16) bool {
	if w.Proxy.Scheme == "" || !w.FromEnv {
		return w.Proxy.Scheme != ""
	}
	to := &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
	u, err := http.ProxyFromEnvironment(&http.Request{URL: to})
	return err == nil && u != nil
}

func parseOrder(s string) (bool, error) {
	switch s {
	case "listed", "fastest":
		return s == "fastest", nil
	}
	return false, fmt.Errorf("%s is not an order: give listed or fastest", quote(s))
}

func parseBindAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s is not an address that this machine can have: give one like 192.0.2.7", quote(s))
	}
	return a.Unmap(), nil
}

func parseMark(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not a mark: give 1 to 4294967295, or 0x1 to 0xffffffff", quote(s))
	}
	return uint32(n), nil
}

// settleProxy finds the proxy on the way to the server and its password.
func (l *loader) settleProxy() {
	d := &l.draft
	switch {
	case d.Way.FromEnv && l.inputs["proxy"].given():
		l.problem("proxy-from-env", "-proxy says already where to go: drop one of the two")
		return
	case d.Way.FromEnv:
		l.proxyFromEnv()
	default:
		d.Way.Proxy = d.proxy
	}
	p := &d.Way.Proxy
	word, file := l.inputs["proxy-url-pass"], l.inputs["proxy-url-pass-file"]
	switch {
	case p.Password.IsSet() && (file.given() || word.given() && !p.Password.Equal(d.proxyURLPass)):
		flag := "proxy-url-pass"
		if !word.given() {
			flag = "proxy-url-pass-file"
		}
		l.problem(flag, "there is a password in the proxy's URL too: drop one of the two")
	case p.Password.IsSet():
		d.proxyURLPass = p.Password
		if !d.Way.FromEnv {
			word.place = l.inputs["proxy"].place
		}
	case p.User != "" || file.given():
		l.settleSecret(secretPlace{
			flag: "proxy-url-pass", fileFlag: "proxy-url-pass-file", credentials: []string{"softether-proxy-url-pass"},
			into: &d.proxyURLPass, file: d.proxyURLPassFile,
		})
	}
	p.Password = d.proxyURLPass
}

// proxyFromEnv reads the variables that many programs share.
func (l *loader) proxyFromEnv() {
	w := &l.draft.Way
	name, word := l.shared("HTTPS_PROXY")
	if word == "" {
		l.note("-proxy-from-env: HTTPS_PROXY is not set, so there is no proxy")
		return
	}
	var err error
	if w.Proxy, err = parseProxyURL(word); err != nil {
		l.problem("proxy-from-env", name+" "+err.Error())
	}
}

// shared looks a variable up by its name in capitals, and then in small letters.
func (l *loader) shared(name string) (found, word string) {
	for _, found := range []string{name, strings.ToLower(name)} {
		if word, _ := l.src.LookupEnv(found); word != "" {
			return found, word
		}
	}
	return name, ""
}

func (w Way) check() []problem { return append(w.checkProxy(), w.checkTransport()...) }

func (w Way) checkProxy() (ps []problem) {
	p, where := w.Proxy, "proxy"
	if w.FromEnv {
		where = "proxy-from-env"
	}
	needs := []string{"proxy", "proxy-from-env", "proxy-url-pass", "proxy-url-pass-file"}
	switch err := p.checkUser(); {
	case p.Scheme == "" && p.Password.IsSet(), p.User == "" && p.Password.IsSet():
		ps = append(ps, problem{flag: "proxy-url-pass", needs: needs, text: "needs a user in the proxy's URL: give -proxy http://USER@HOST:PORT"})
	case err != nil && p.Scheme != "":
		ps = append(ps, problem{flag: where, text: err.Error(), needs: needs})
	case p.Scheme != "" && strings.HasPrefix(p.Scheme, "socks5") && p.User != "" && p.Password.Reveal() == "":
		ps = append(ps, problem{flag: where, needs: needs, text: "has a user and no password, which SOCKS5 cannot carry: give -proxy-url-pass-file FILE or SOFTETHER_PROXY_URL_PASS"})
	}
	if len(w.Headers) > 0 && !p.isHTTP() && (!w.FromEnv || p.Scheme != "") {
		ps = append(ps, problem{flag: "proxy-header", needs: needs, text: "is for an http:// or https:// proxy, and there is none: add -proxy, or drop it"})
	}
	return ps
}

// noteWay is for what may surprise about the way to the server.
func (l *loader) noteWay() {
	w, t := l.draft.Way, l.draft.TAP
	if w.Proxy.Scheme == "" {
		return
	}
	if onLoopback(net.JoinHostPort(w.Proxy.Host, "0")) && t.AcceptDefaultGateway {
		l.note("-accept-default-gateway with a proxy on this machine: where that proxy connects to needs a route of its own, or it goes into the tunnel that it carries")
	}
	if w.Proxy.User == "" && l.draft.Proxy.User != "" {
		l.note("-proxy-user is what clients of -socks5 and -http must give; a login at the proxy before the server goes into its URL")
	}
}
