package host

import (
	"testing"
)

// testFlags takes a lease, once more, and back.
func testFlags(t *testing.T, o Options) {
	inWorld(t, func(w *world) {
		before := w.state()
		h := w.open(o)
		w.same(before, "after Open")
		w.protect(h, "203.0.113.5")
		w.show("protected")
		w.apply(h, lease())
		w.show("applied")
		applied := w.state()
		w.apply(h, lease())
		w.same(applied, "applied again")
		w.close(h)
		w.same(before, "after Close")
	})
}

func TestAddressOnly(t *testing.T)    { testFlags(t, Options{}) }
func TestDefaultGateway(t *testing.T) { testFlags(t, Options{AcceptDefaultGateway: true}) }
func TestStaticRoutes(t *testing.T)   { testFlags(t, Options{AcceptStaticRoutes: true}) }
func TestPolicyTable(t *testing.T)    { testFlags(t, Options{PolicyTable: 200}) }
func TestConnMark(t *testing.T)       { testFlags(t, Options{PolicyTable: 200, ConnMark: true}) }
func TestEverything(t *testing.T)     { testFlags(t, everything()) }
func TestEverythingWithSLAAC(t *testing.T) {
	o := everything()
	o.SLAAC = true
	testFlags(t, o)
}
