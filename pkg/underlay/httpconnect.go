package underlay

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxAnswer bounds an HTTP proxy's answer. Common servers take as much for headers.
	maxAnswer = 64 << 10
	// maxInterim bounds the interim answers before the one that counts.
	maxInterim = 5
)

// joinHTTP asks by HTTP's CONNECT (RFC 9110, 9.3.6) with a Basic login (RFC 7617).
func (p *Proxy) joinHTTP(conn net.Conn, target string) error {
	request := &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: p.Header.Clone(),
	}
	if request.Header == nil {
		request.Header = http.Header{}
	}
	if request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", "softether-go") // else net/http names itself
	}
	if p.User != "" {
		login := base64.StdEncoding.EncodeToString([]byte(p.User + ":" + p.Password))
		request.Header.Set("Proxy-Authorization", "Basic "+login)
	}
	if err := request.Write(conn); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: conn, N: maxAnswer}
	br := bufio.NewReader(limited)
	answer, err := readAnswer(br, request)
	if err != nil && limited.N == 0 {
		return errNotHTTP
	}
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return p.refusal(answer, target)
	}
	if br.Buffered() > 0 { // the server waits for us to begin
		return fmt.Errorf("it sent data that nobody asked for (%w)", errNotHTTP)
	}
	return nil
}

func readAnswer(br *bufio.Reader, request *http.Request) (*http.Response, error) {
	if b, err := br.Peek(5); err != nil || string(b) != "HTTP/" {
		if len(b) > 0 && !strings.HasPrefix("HTTP/", string(b)) {
			return nil, errNotHTTP
		}
		return nil, err
	}
	for range maxInterim {
		answer, err := http.ReadResponse(br, request)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, err
			}
			return nil, errNotHTTP // its own words may hold anything
		}
		if answer.StatusCode/100 != 1 {
			return answer, nil
		}
	}
	return nil, errNotHTTP
}

// refusal says what an answer means, in our words: the proxy's may be anything.
func (p *Proxy) refusal(answer *http.Response, target string) error {
	code := answer.StatusCode
	how := strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
	switch code {
	case http.StatusProxyAuthRequired, http.StatusUnauthorized: // tinyproxy says the latter to a wrong login
		offers := answer.Header.Values("Proxy-Authenticate")
		switch {
		case len(offers) > 0 && !offersBasic(offers):
			return final{fmt.Errorf("it wants a login of another kind than Basic (%s): ask its administrator for Basic, or put a local proxy between that knows its kind", how)}
		case p.User != "" || p.Header.Get("Proxy-Authorization") != "":
			return errBadLogin(how)
		}
		return errNoLogin(how)
	case http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return errForbidden(target, how)
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return errUnreachable(target, how)
	}
	return fmt.Errorf("it answers %q where a proxy gives a connection; is it one, and may it connect to %s?", how, target)
}

func offersBasic(offers []string) bool {
	for _, offer := range offers {
		for part := range strings.SplitSeq(offer, ",") {
			if kind, _, _ := strings.Cut(strings.TrimSpace(part), " "); strings.EqualFold(kind, "Basic") {
				return true
			}
		}
	}
	return false
}
