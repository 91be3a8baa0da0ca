package hub_test

import (
	"io"
	"regexp"
	"testing"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
)

// officialFlow is how Debian's client logs in to this hub, and what the hub
// answers. It was recorded, and can be again, by a test that needs root:
//
//	go test ./pkg/hub -run TestTheOfficialClient -record
const officialFlow = "testdata/official.flow"

// officialConfig makes a hub whose challenges and keys are always the same, so that
// a recorded client can log in again.
func officialConfig() hub.Config {
	return hub.Config{Hub: "HUB", Users: []hub.User{{Name: "bob", Password: "secret"}}, Rand: &counter{}}
}

// counter yields 0, 1, 2, …
type counter struct{ n byte }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.n
		c.n++
	}
	return len(b), nil
}

var date = regexp.MustCompile(`Date: [^\r]*`)

func withoutDate(b []byte) []byte { return date.ReplaceAll(b, nil) }

func TestTheOfficialClientAsRecorded(t *testing.T) {
	flow, err := hubtest.ReadFlow(officialFlow)
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.Start(t, officialConfig())
	c := connect(t, h)
	if err := flow.Replay(c.tls, hubtest.Client, withoutDate); err != nil {
		t.Fatal(err)
	}
	h.WaitSessions(t, 1)
	var first [4]byte
	if _, err := io.ReadFull(c.tls, first[:]); err != nil || first != [4]byte{0xff, 0xff, 0xff, 0xff} {
		t.Errorf("then % x, %v; want a keep-alive", first, err)
	}
}
