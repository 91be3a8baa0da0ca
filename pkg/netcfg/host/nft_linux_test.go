package host

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMissingTablesAreExplained(t *testing.T) {
	for _, errno := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT} {
		err := explainNFT(fmt.Errorf("netlink: %w", errno))
		if !errors.Is(err, errNoTables) || !errors.Is(err, errno) || !strings.Contains(err.Error(), "modprobe nf_tables") {
			t.Errorf("%v: got %v", errno, err)
		}
	}
	if err := explainNFT(unix.EPERM); errors.Is(err, errNoTables) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("EPERM: got %v", err)
	}
	if err := explainNFT(unix.ENOBUFS); err != unix.ENOBUFS {
		t.Errorf("ENOBUFS: got %v", err)
	}
}
