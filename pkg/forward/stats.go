package forward

import "sync/atomic"

// Stats is a snapshot of a Forward's counters.
type Stats struct {
	Open      int64  // connections or flows now
	Accepted  uint64 // since the start
	Failed    uint64 // of these, whose target was not reached
	OverLimit uint64 // connections reset, datagrams of new flows dropped, since there were too many
	ToTarget  uint64 // bytes
	ToClients uint64 // bytes
	Datagrams uint64 // carried, both ways
	Dropped   uint64 // datagrams that could not be sent
}

type counters struct {
	open                atomic.Int64
	accepted            atomic.Uint64
	failed, overLimit   atomic.Uint64
	toTarget, toClients atomic.Uint64
	datagrams, dropped  atomic.Uint64
}

// Stats returns the counters as they are now. It may be called at any time.
func (f *Forward) Stats() Stats {
	c := &f.counters
	return Stats{
		Open: c.open.Load(), Accepted: c.accepted.Load(), Failed: c.failed.Load(), OverLimit: c.overLimit.Load(),
		ToTarget: c.toTarget.Load(), ToClients: c.toClients.Load(), Datagrams: c.datagrams.Load(), Dropped: c.dropped.Load(),
	}
}
