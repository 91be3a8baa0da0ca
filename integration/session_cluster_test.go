//go:build linux

package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// waitTLS waits for a server that restarts itself.
func waitTLS(t *testing.T, s *server) {
	t.Helper()
	eventually(t, 30*time.Second, "the server listens again", func() error {
		_, err := s.certificate()
		return err
	})
}

// Proves that a login at the controller of a real cluster leads to a member, with the
// certificate that the controller names, and to another member when that one dies.
func TestAClusterIsFollowedToItsMembers(t *testing.T) {
	t.Parallel()
	w := &world{t: t, cli: newNetns(t, "cli"), proxy: "socks5h://" + socksProxy}
	sw := newNetns(t, "sw")
	sw.IP("link", "add", "br0", "type", "bridge")
	sw.IP("link", "set", "br0", "up")
	join := func(ns *netns, port, address string) {
		sw.IP("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns.name)
		sw.IP("link", "set", port, "master", "br0")
		sw.IP("link", "set", port, "up")
		ns.IP("address", "add", address+"/24", "dev", "eth0")
		ns.IP("link", "set", "eth0", "up")
	}
	join(w.cli, "cli", clientAddress)
	srv := newNetns(t, "srv")
	join(srv, "srv", serverAddress)
	w.srv = startServer(t, srv)
	w.srv.Admin("ServerPasswordSet controller-pw")
	const admin = "/PASSWORD:controller-pw"
	asAdmin := func(lines ...string) string {
		return vpncmd(t, srv, []string{"127.0.0.1:5555", "/SERVER", admin}, lines...)
	}
	out := asAdmin("ClusterSettingController /WEIGHT:100 /ONLY:yes")
	if strings.Contains(out, "not supported") {
		t.Fatalf("this build has no clusters: %s", out)
	}
	waitTLS(t, w.srv)

	members := map[string]*server{}
	for i, address := range []string{"198.18.0.11", "198.18.0.12"} {
		ns := newNetns(t, "srv")
		join(ns, fmt.Sprintf("m%d", i), address)
		m := startServer(t, ns)
		m.Admin("ClusterSettingMember " + serverAddress + ":5555 /IP:" + address + " /PORTS:443,5555 /PASSWORD:controller-pw /WEIGHT:100")
		waitTLS(t, m)
		members[address] = m
	}
	eventually(t, 60*time.Second, "both members are online", func() error {
		if n := strings.Count(asAdmin("ClusterMemberList"), ",Member,"); n < 2 {
			return fmt.Errorf("%d members:\n%s", n, asAdmin("ClusterMemberList"))
		}
		return nil
	})
	asAdmin("HubCreateDynamic "+hubName+" /PASSWORD:x", "Hub "+hubName,
		"UserCreate "+userName+" /GROUP:none /REALNAME:none /NOTE:none",
		`UserPasswordSet `+userName+` /PASSWORD:"`+userPassword+`"`, "SecureNatEnable")

	c := w.StartClient(usualFlags.with(flags{"insecure": absent, "pin": "sha256:" + w.srv.Pin(), "connections": "2"}))
	sentOn := regexp.MustCompile(`sent on to a member of the cluster" member=(198\.18\.0\.1[12]):443`)
	c.WaitLogAfter(0, "tunnel up", 60*time.Second)
	first := ""
	if m := sentOn.FindStringSubmatch(c.Log()); m != nil {
		first = m[1]
	} else {
		t.Fatal("the session came up on the controller")
	}
	seen := len(c.Log())
	members[first].Kill()
	other := map[string]string{"198.18.0.11": "198.18.0.12", "198.18.0.12": "198.18.0.11"}[first]
	// The controller may not know at once, and send us to the dead one again.
	c.WaitLogAfter(seen, "member="+regexp.QuoteMeta(other)+":443", 90*time.Second)
	c.WaitLogAfter(seen, "tunnel up", 90*time.Second)
}
