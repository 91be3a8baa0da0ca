//go:build linux

package integration

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	roundTripP50     metric = "rtt-p50-ms"
	roundTripP99     metric = "rtt-p99-ms"
	roundTripAdded   metric = "rtt-p99-above-idle-ms"
	commandToByte    metric = "command-to-byte-ms"
	connectionToByte metric = "connection-to-byte-ms"
	reconnectToByte  metric = "reconnect-to-byte-ms"
)

const (
	bottleneck        = "50mbit"
	bottleneckBurst   = "16kb"
	bottleneckLatency = "10ms" // of its queue when it is full
	probeEvery        = 10 * time.Millisecond
	reconnectLimit    = 30 * time.Second
)

var latencySheets = []sheet{{
	name: roundTripTable,
	about: fmt.Sprintf("Eight bytes to an echo service behind the hub and back, every %v over one TCP connection, with %s/s (queue: %s)"+
		" both ways between client and server. A load is one bulk flow.", probeEvery, bottleneck, bottleneckLatency),
	peers: peers,
	columns: []column{
		{roundTripP50, "p50, ms", nil, false},
		{roundTripP99, "p99, ms", nil, false},
		{roundTripAdded, "p99 above idle's, ms", map[string]string{oursTAP: "≤ 15 (upload)", oursSOCKS: "≤ 15 (upload)"}, false},
	},
}, {
	name: connectTable,
	about: "Until the first byte has come back from behind the hub: from the command (which for the official client is vpncmd," +
		" that talks to a running service), from the first TCP connection to the server, and from a cut of all connections." +
		" Ours gets its address by DHCP; the official client has one before. The base delay between attempts is 0.2 s for ours" +
		fmt.Sprintf(" and 1 s for the official client. Who has not come back within %v after a cut has no figure there.", reconnectLimit),
	peers: map[string]string{oursTAP: officialTAP, oursSOCKS: officialTAP},
	columns: []column{
		{commandToByte, "from the command, ms", nil, false},
		{connectionToByte, "from the connection, ms", map[string]string{oursTAP: "≤ 1×", oursSOCKS: "≤ 1×"}, false},
		{reconnectToByte, "after a cut, ms", nil, false},
	},
}}

// compareRoundTrips puts a bottleneck into every client's way.
func compareRoundTrips(t testing.TB, r *report) {
	needTool(t, "tc", "iproute2")
	p := newPlace(t, realServer)
	entrants := p.enter(officialTAP, oursTAP, officialSOCKS, oursSOCKS)
	for _, e := range entrants {
		shape(t, e.ns, "eth0")
		shape(t, p.srv, e.room.veth)
	}
	inTurns(entrants, func(e *entrant) {
		idle := e.roundTrips()
		r.Add(t, roundTripTable, "idle", e.name, idle)
		for _, d := range []direction{up, down} {
			l := e.startLoad(d, 1)
			time.Sleep(2 * warmUp)
			f := e.roundTrips()
			l.Stop()
			f[roundTripAdded] = f[roundTripP99] - idle[roundTripP99]
			r.Add(t, roundTripTable, "load "+d.name, e.name, f)
		}
	})
}

func shape(t testing.TB, ns *netns, device string) {
	t.Helper()
	command(t, "tc", "-n", ns.name, "qdisc", "replace", "dev", device, "root", "tbf",
		"rate", bottleneck, "burst", bottleneckBurst, "latency", bottleneckLatency)
}

// roundTrips probes for a window and a half. A probe leaves when it is due, not when the one
// before has come back: a pause delays many, as it would for a person.
func (e *entrant) roundTrips() figures {
	e.t.Helper()
	c, err := e.dial(echoTarget)
	if err != nil {
		e.t.Fatalf("%s: %v", e.name, err)
	}
	defer c.Close()
	begun := time.Now()
	n := int(window() * 3 / 2 / probeEvery)
	go func() {
		for i := range n {
			time.Sleep(time.Until(begun.Add(time.Duration(i) * probeEvery)))
			c.Write(binary.BigEndian.AppendUint64(nil, uint64(time.Since(begun))))
		}
	}()
	took := make([]time.Duration, n)
	c.SetReadDeadline(begun.Add(window()*3/2 + 10*time.Second))
	for i := range took {
		var sent [8]byte
		if _, err := io.ReadFull(c, sent[:]); err != nil {
			e.t.Fatalf("%s: probe %d of %d: %v", e.name, i, n, err)
		}
		took[i] = time.Since(begun) - time.Duration(binary.BigEndian.Uint64(sent[:]))
	}
	slices.Sort(took)
	return figures{roundTripP50: milliseconds(took[n/2]), roundTripP99: milliseconds(took[n*99/100])}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// compareConnects lets every client begin from nothing, through a middlebox that
// sees when it does, and cuts it once.
func compareConnects(t testing.TB, r *report) {
	p := newPlace(t, realServer)
	entrants := []*entrant{p.offline(officialTAP), p.offline(oursTAP), p.offline(oursSOCKS)}
	box := entrants[0].room.startMiddlebox()
	starts := map[string]func() (stop func()){
		officialTAP: entrants[0].officialStarts(),
		oursTAP:     entrants[1].tapStarts,
		oursSOCKS:   entrants[2].socksStarts,
	}
	for round := range *compareRounds {
		for _, e := range entrants {
			f, stop := e.connectTimes(box, starts[e.name])
			if round == *compareRounds-1 {
				e.reconnectTime(box, f)
			}
			r.Add(t, connectTable, "fresh", e.name, f)
			stop()
		}
	}
}

// offline is an entrant whose client does not run yet.
func (p *place) offline(name string) *entrant {
	e := &entrant{t: p.t, name: name, place: p}
	e.settle(p.room())
	return e
}

// connectTimes starts a client and waits for its first byte.
func (e *entrant) connectTimes(box *middlebox, start func() (stop func())) (figures, func()) {
	e.t.Helper()
	known := box.accepted.Load()
	arrival := make(chan time.Time, 1)
	giveUp := time.Now().Add(upTime)
	go func() {
		for box.accepted.Load() == known && time.Now().Before(giveUp) {
			time.Sleep(time.Millisecond)
		}
		arrival <- time.Now()
	}()
	begun := time.Now()
	stop := start()
	e.WaitUp()
	done := time.Now()
	return figures{
		commandToByte:    milliseconds(done.Sub(begun)),
		connectionToByte: milliseconds(done.Sub(<-arrival)),
	}, stop
}

// reconnectTime cuts all connections, and adds nothing if that was too much.
func (e *entrant) reconnectTime(box *middlebox, f figures) {
	time.Sleep(time.Second)
	begun := time.Now()
	box.Cut()
	if err := e.firstEcho(reconnectLimit); err != nil {
		e.t.Logf("%s has not come back within %v: %v", e.name, reconnectLimit, err)
		return
	}
	f[reconnectToByte] = milliseconds(time.Since(begun))
}

func (e *entrant) tapStarts() (stop func()) {
	return e.room.StartTAP(tapFlags.with(flags{"host": e.room.host, "port": middleboxPort})).Kill
}

func (e *entrant) socksStarts() (stop func()) {
	e.proxy = socksProxy
	return e.room.StartClient(usualFlags.with(flags{"host": e.room.host, "port": middleboxPort})).Kill
}

// officialStarts prepares everything but the connection. The neighbour is known, or
// a question that got lost before the tunnel was up would cost a second.
func (e *entrant) officialStarts() func() (stop func()) {
	e.t.Helper()
	o := startOfficial(e.t, e.ns)
	o.Connect(net.JoinHostPort(e.room.host, middleboxPort), hubName, userPassword, officialAddress)
	mac, err := e.place.lan.ns.Command("cat", "/sys/class/net/br0/address").Output()
	if err != nil {
		e.t.Fatal(err)
	}
	e.ns.IP("neighbour", "replace", lanGateway, "lladdr", strings.TrimSpace(string(mac)), "dev", officialDevice)
	disconnect := func() {
		o.Admin("AccountDisconnect c1")
		time.Sleep(time.Second)
	}
	disconnect()
	return func() func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runLimited(e.ns.Command("vpncmd", "localhost", "/CLIENT", "/CMD", "AccountConnect", "c1"), upTime)
		}()
		return func() {
			<-done
			disconnect()
		}
	}
}
