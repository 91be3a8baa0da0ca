package main

import (
	"os"
	"testing"

	"softether-go/pkg/privnet"
)

// The profile that is shipped is the one that run prints, for where the units look.
func TestTheAppArmorProfileIsTheOneThatIsPrinted(t *testing.T) {
	got, err := os.ReadFile("deploy/apparmor/softether-go")
	if err != nil {
		t.Fatal(err)
	}
	if want := privnet.AppArmorProfile("/usr/local/bin/softether-go"); string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
