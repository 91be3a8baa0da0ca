package fairqueue

import "time"

// A store holds frames by number, in chunks of two sizes: most frames are either full
// or little more than headers. It grows by blocks up to its limits and does not shrink.
// Nothing in it is locked.
type store struct {
	small, large shelf
}

const (
	smallChunk = 256  // acknowledgements, questions, voice
	largeChunk = 1600 // frame.MaxLen
	blockLen   = 64 << 10

	smallPer = blockLen / smallChunk
	largePer = blockLen / largeChunk
)

// A shelf has the chunks of one size.
type shelf struct {
	size, per int
	most      int // chunks
	blocks    [][]byte
	slots     []slot
	free      int32 // head of the list of free ones, linked by next; -1 if none
}

// A slot says what is in a chunk.
type slot struct {
	next    int32 // in the flow, or in the list of free ones
	length  int32
	arrived time.Duration
}

const none int32 = -1

// newStore returns a store for so many bytes of chunks of either size.
func newStore(limit int) store {
	return store{
		small: shelf{size: smallChunk, per: smallPer, most: limit / smallChunk, free: none},
		large: shelf{size: largeChunk, per: largePer, most: limit / largeChunk, free: none},
	}
}

// put copies f, which is not longer than largeChunk, and returns its number, or none
// if there is no room.
func (s *store) put(f []byte, now time.Duration) int32 {
	k, low := &s.large, int32(0)
	if len(f) <= smallChunk {
		k, low = &s.small, 1
	}
	i := k.take()
	if i == none {
		return none
	}
	k.slots[i] = slot{next: none, length: int32(len(f)), arrived: now}
	copy(k.chunk(i), f)
	return i<<1 | low
}

// shelf returns where the frame of a number is, and its place there.
func (s *store) shelf(number int32) (*shelf, int32) {
	if number&1 != 0 {
		return &s.small, number >> 1
	}
	return &s.large, number >> 1
}

func (s *store) slot(number int32) *slot {
	k, i := s.shelf(number)
	return &k.slots[i]
}

// frame returns the bytes of a frame.
func (s *store) frame(number int32) []byte {
	k, i := s.shelf(number)
	n := k.slots[i].length
	return k.chunk(i)[:n:n]
}

// room returns how many bytes of the limits a frame takes.
func (s *store) room(number int32) int {
	k, _ := s.shelf(number)
	return k.size
}

// drop makes the number free.
func (s *store) drop(number int32) {
	k, i := s.shelf(number)
	k.slots[i].next, k.free = k.free, i
}

// take returns a free place, growing if it may, or none.
func (k *shelf) take() int32 {
	if k.free == none && !k.grow() {
		return none
	}
	i := k.free
	k.free = k.slots[i].next
	return i
}

// grow adds a block.
func (k *shelf) grow() bool {
	n := min(k.per, k.most-len(k.slots))
	if n <= 0 {
		return false
	}
	k.blocks = append(k.blocks, make([]byte, n*k.size))
	for range n {
		k.slots = append(k.slots, slot{next: k.free})
		k.free = int32(len(k.slots) - 1)
	}
	return true
}

func (k *shelf) chunk(i int32) []byte {
	at := int(i) % k.per * k.size
	return k.blocks[int(i)/k.per][at : at+k.size]
}
