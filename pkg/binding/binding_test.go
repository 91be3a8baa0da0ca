package binding

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestErrorsOfBindSayWhatToDo(t *testing.T) {
	for _, row := range []struct {
		err  error
		want string
	}{
		{syscall.EADDRINUSE, "in use"},
		{&net.OpError{Op: "listen", Err: syscall.EACCES}, "above 1023"},
		{syscall.Errno(10049), "no such address"}, // of Windows
		{errors.New("something else"), "something else"},
	} {
		got := Explain(row.err)
		if !strings.Contains(got.Error(), row.want) || !errors.Is(got, row.err) {
			t.Errorf("%v: got %q, want %q and the cause in it", row.err, got, row.want)
		}
	}
	if Explain(nil) != nil {
		t.Error("no error became one")
	}
}
