package proxy

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Inside says what is behind the tunnel, for programs that ask which way to go.
type Inside struct {
	Networks []netip.Prefix
	Domains  []string // these, and all names below them
}

const (
	pacPath = "/proxy.pac"
	pacType = "application/x-ns-proxy-autoconfig"
)

// isPAC reports whether a request is to the proxy itself, for the file that tells browsers
// which way to go.
func (h *HTTP) isPAC(req *http.Request) bool {
	own := req.URL.Scheme == "" && req.URL.Host == "" // origin form
	return own && h.Inside != nil && req.URL.Path == pacPath && (req.Method == http.MethodGet || req.Method == http.MethodHead)
}

// servePAC sends that file. It is for everybody who reaches the port, as those who ask for
// it cannot log in: it tells where the VPN's names and networks are, and no more.
func (h *HTTP) servePAC(w http.ResponseWriter, req *http.Request) {
	kind, port := "PROXY ", 80
	if c := req.Context().Value(clientKey{}).(*httpClient); c.tls {
		kind, port = "HTTPS ", 443
	}
	address, err := authority(req.Host, port) // by which the client reached us
	if err != nil {
		h.fail(w, req, BadTarget, err)
		return
	}
	text := pacFile(kind+address, h.Inside(), req.URL.RawQuery == "all")
	head := w.Header()
	head.Set("Content-Type", pacType)
	head.Set("Cache-Control", "no-cache") // what is inside changes with the lease
	head.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	if req.Method == http.MethodGet {
		_, _ = w.Write([]byte(text))
	}
}

// pacFile is the script. It compares addresses by itself, as isInNet and its like would
// ask the machine's resolver for names of the VPN.
func pacFile(proxy string, in Inside, all bool) string {
	type network struct {
		Bytes []int `json:"b"`
		Bits  int   `json:"n"`
	}
	networks := []network{}
	for _, p := range in.Networks {
		n := network{Bits: p.Bits()}
		for _, b := range p.Masked().Addr().AsSlice() {
			n.Bytes = append(n.Bytes, int(b))
		}
		networks = append(networks, n)
	}
	domains := []string{}
	for _, d := range in.Domains {
		if d = strings.Trim(strings.ToLower(d), "."); d != "" && !slices.Contains(domains, d) {
			domains = append(domains, d)
		}
	}
	return "var proxy = " + js(proxy) + ";\nvar all = " + js(all) +
		";\nvar domains = " + js(domains) + ";\nvar networks = " + js(networks) + ";\n" + pacScript
}

// js is a value as a script has it.
func js(v any) string {
	b, err := json.Marshal(v) // HTML's characters and line ends of Unicode are escaped
	if err != nil {
		panic(err) // of nothing we give it
	}
	return string(b)
}

// pacScript is for any JavaScript there has been, and asks no resolver.
const pacScript = `
function bytes(host) {
  var m = /^(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(host);
  if (m) return [+m[1], +m[2], +m[3], +m[4]];
  if (host.indexOf(":") < 0) return null;
  var halves = host.replace(/^\[|\]$/g, "").split("::");
  var words = function (s) { return s === "" ? [] : s.split(":"); };
  var head = words(halves[0]), tail = halves.length > 1 ? words(halves[1]) : [];
  while (halves.length > 1 && head.length + tail.length < 8) head.push("0");
  var out = [];
  head.concat(tail).forEach(function (w) { var n = parseInt(w, 16); out.push(n >> 8, n & 255); });
  return out;
}

function within(b, net) {
  if (b.length !== net.b.length) return false;
  for (var i = 0; i < net.n; i++) {
    var bit = 128 >> (i & 7);
    if ((b[i >> 3] & bit) !== (net.b[i >> 3] & bit)) return false;
  }
  return true;
}

function FindProxyForURL(url, host) {
  host = host.toLowerCase().replace(/\.$/, "");
  if (host === "localhost" || /\.localhost$/.test(host)) return "DIRECT";
  var b = bytes(host);
  if (b && (b[0] === 127 && b.length === 4 || b.length === 16 && b.join() === "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1")) return "DIRECT";
  if (all) return proxy;
  if (b) {
    for (var i = 0; i < networks.length; i++) if (within(b, networks[i])) return proxy;
    return "DIRECT";
  }
  if (host.indexOf(".") < 0) return proxy;
  for (var j = 0; j < domains.length; j++) {
    var d = domains[j];
    if (host === d || host.slice(-d.length - 1) === "." + d) return proxy;
  }
  return "DIRECT";
}
`
