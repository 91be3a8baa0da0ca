package config

import "fmt"

// Announce says what the HTTP proxy tells web servers of itself and its clients.
type Announce uint8

// What it may tell.
const (
	AnnounceNothing Announce = iota // what clients say stays as it is
	AnnounceHide                    // what clients say is taken out
	AnnounceVia                     // that there is a proxy
	AnnounceAll                     // the client's address too
)

var announcements = [...]string{"nothing", "hide", "via", "all"}

// String gives it as -http-announce takes it.
func (a Announce) String() string { return announcements[a] }

func parseAnnounce(s string) (Announce, error) {
	for i, name := range announcements {
		if s == name {
			return Announce(i), nil
		}
	}
	return 0, fmt.Errorf("%s is no such choice: give nothing, hide, via or all", quote(s))
}
