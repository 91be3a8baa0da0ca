package config

import "testing"

func TestAnnounce(t *testing.T) {
	for _, word := range []string{"nothing", "hide", "via", "all"} {
		if a, err := parseAnnounce(word); err != nil || a.String() != word {
			t.Errorf("%s: got %v, %v", word, a, err)
		}
	}
	if _, err := parseAnnounce("All"); err == nil {
		t.Error("a word that is none is taken")
	}
}
