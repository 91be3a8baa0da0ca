package fairqueue

// A Schedule says whose turn it is among flows, which it knows by number: deficit
// round robin with newcomers first (RFC 8290, 4.2). Each flow in turn may send a
// quantum of bytes more than it has. A flow that was idle goes ahead of the others for
// its first quantum; if it sends no more than that now and then, it always does.
//
// A Schedule belongs to one goroutine at a time. Nothing is allocated after NewSchedule.
type Schedule struct {
	quantum    int
	turns      []turn
	fresh, old line
}

// A turn is a flow's place.
type turn struct {
	next    int32 // the flow behind it in its line
	deficit int32 // bytes it may send before it goes to the end
	where   place
}

type place uint8

const (
	nowhere place = iota
	inFresh
	inOld
)

// NewSchedule returns one for flows numbered from 0.
func NewSchedule(flows, quantum int) *Schedule {
	return &Schedule{quantum: quantum, turns: make([]turn, flows), fresh: noLine, old: noLine}
}

// Add says that flow has something to send. To say it again does nothing.
func (s *Schedule) Add(flow int) {
	t := &s.turns[flow]
	if t.where == nowhere {
		t.deficit = int32(s.quantum)
		s.append(&s.fresh, inFresh, flow)
	}
}

// Next returns the flow whose turn it is. The caller then says what it has sent, by
// Spent, or that it had nothing, by Empty.
func (s *Schedule) Next() (flow int, ok bool) {
	for {
		l := &s.fresh
		if l.head < 0 {
			l = &s.old
		}
		if l.head < 0 {
			return 0, false
		}
		flow := int(l.head)
		t := &s.turns[flow]
		if t.deficit > 0 {
			return flow, true
		}
		t.deficit += int32(s.quantum)
		s.pop(l)
		s.append(&s.old, inOld, flow)
	}
}

// Ahead returns the flow whose turn it is, if it is one that goes ahead of those that
// have been sending.
func (s *Schedule) Ahead() (flow int, ok bool) {
	flow, ok = s.Next()
	return flow, ok && s.turns[flow].where == inFresh
}

// Pass says that flow, which Ahead returned, takes its turn among the others instead.
func (s *Schedule) Pass(flow int) {
	s.pop(&s.fresh)
	s.append(&s.old, inOld, flow)
}

// Spent says that flow, whose turn it was, has sent so many bytes.
func (s *Schedule) Spent(flow, bytes int) { s.turns[flow].deficit -= int32(bytes) }

// Empty says that flow, whose turn it was, had nothing. One that has just been let go
// ahead waits for its turn among the others before it may do so again; otherwise it
// would be ahead for ever.
func (s *Schedule) Empty(flow int) {
	if s.turns[flow].where == inFresh {
		s.Pass(flow)
		return
	}
	s.pop(&s.old)
	s.turns[flow].where = nowhere
}

// A line is a list of flows linked by their turns.
type line struct{ head, tail int32 }

var noLine = line{-1, -1}

func (s *Schedule) append(l *line, where place, flow int) {
	s.turns[flow].next, s.turns[flow].where = -1, where
	if l.head < 0 {
		l.head = int32(flow)
	} else {
		s.turns[l.tail].next = int32(flow)
	}
	l.tail = int32(flow)
}

// pop takes the head out of l, which has one.
func (s *Schedule) pop(l *line) {
	if l.head = s.turns[l.head].next; l.head < 0 {
		l.tail = -1
	}
}
