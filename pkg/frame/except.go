package frame

// Except returns a Writer that offers each frame to take, and hands on to next what take
// returns false for: in order, and a batch of which nothing is taken as it is. take is
// called from whichever goroutines write. Nothing is allocated for frames that pass.
func Except(next Writer, take func(f []byte) bool) Writer { return &except{next, take} }

type except struct {
	next Writer
	take func(f []byte) bool
}

// WriteFrames passes frames on.
func (e *except) WriteFrames(frames [][]byte) error {
	passed := 0
	for i, f := range frames {
		if !e.take(f) {
			continue
		}
		if i > passed {
			if err := e.next.WriteFrames(frames[passed:i:i]); err != nil {
				return err
			}
		}
		passed = i + 1
	}
	if passed > 0 && passed == len(frames) {
		return nil
	}
	return e.next.WriteFrames(frames[passed:])
}
