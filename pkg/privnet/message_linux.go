package privnet

import (
	"net"

	"softether-go/pkg/netcfg"
	"softether-go/pkg/tap"
)

// A hello is init's first message on the link, with the TAP's descriptor.
type hello struct {
	TAP tap.Handover
}

// A request is the VPN process's on the link.
type request struct {
	Seq   uint64 // chosen by who asks, unused before
	Apply *netcfg.Config
	Ready bool   // there is an address to send from: start the command
	Dial  string // a port to connect to inside, as tcp/80
}

// An answer is init's to a request, with the descriptor of the connection asked for.
type answer struct {
	Seq   uint64
	Error string // empty means done
}

// A Spec says what init is to make.
type Spec struct {
	MAC     net.HardwareAddr // of the TAP; nil means a random one
	IPv6    bool             // there may be some
	Enters  bool             // the namespace is another's: make the interface, and nothing else
	Capture bool             // leave the command CAP_NET_RAW, over its own network
}

// An order is the front's to init. The first has the Spec, others a signal.
type order struct {
	Spec   *Spec
	Signal int
}

// An Event is what init tells the front. One field is set,
// or Failed with Forbidden.
type Event struct {
	Forbidden bool     // with Failed: this host does not allow it
	Ready     bool     // the namespace is made; the command waits for a configuration
	Failed    string   // why it is not, in one line
	Servers   []string // name servers, for a namespace whose files are not ours
	Started   bool     // the command runs
	Stopped   int      // the signal that stopped the command
	Exited    *Exit
}

// An Exit says how the command ended.
type Exit struct {
	Code int    // 128 and the signal if one ended it; 126 or 127 if it could not start
	Why  string // why it could not start
}
