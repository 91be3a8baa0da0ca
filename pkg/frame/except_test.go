package frame_test

import (
	"errors"
	"strings"
	"testing"

	"softether-go/pkg/frame"
)

func TestExceptTakesAndPasses(t *testing.T) {
	var calls []string
	full := errors.New("full")
	var fail error
	next := frame.WriterFunc(func(frames [][]byte) error {
		var s strings.Builder
		for _, f := range frames {
			s.Write(f)
		}
		calls = append(calls, s.String())
		return fail
	})
	w := frame.Except(next, func(f []byte) bool { return f[0] == '-' })
	for in, want := range map[string]string{
		"": "", "a": "a", "-": "<none>", "--": "<none>", "abc": "abc", "-ab": "ab", "ab-": "ab", "a-b": "a,b", "-a--bc-d-": "a,bc,d",
	} {
		calls = nil
		var batch [][]byte
		for i := range in {
			batch = append(batch, []byte{in[i]})
		}
		if err := w.WriteFrames(batch); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		got := strings.Join(calls, ",")
		if len(calls) == 0 {
			got = "<none>"
		}
		if got != want {
			t.Errorf("%q: passed %s, want %s", in, got, want)
		}
	}
	calls, fail = nil, full
	if err := w.WriteFrames([][]byte{{'a'}, {'-'}, {'b'}}); err != full || len(calls) != 1 {
		t.Errorf("got %v after %v, want the first failure to end it", err, calls)
	}
}
