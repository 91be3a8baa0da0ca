package wire

import (
	"fmt"
	"strings"

	"softether-go/pkg/pack"
)

// Policy lists what the hub permits this session, in the server's order.
type Policy []PolicyItem

// A PolicyItem is one named value; booleans are 0 or 1.
type PolicyItem struct {
	Name  string
	Value uint32
}

const policyPrefix = "policy:"

// maxPolicy bounds the items kept; the longest known policy has 38.
const maxPolicy = 64

func parsePolicy(p *pack.Pack) Policy {
	var items Policy
	for _, e := range p.Elements() {
		name, ok := strings.CutPrefix(e.Name, policyPrefix)
		if ok && e.Type == pack.Int && len(items) < maxPolicy {
			items = append(items, PolicyItem{Name: name, Value: p.Int(e.Name)})
		}
	}
	return items
}

// Value returns the value of a policy item, 0 if the server did not name it.
func (p Policy) Value(name string) uint32 {
	for _, f := range p {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return 0
}

// String lists what the policy restricts, readably: items that are not zero.
func (p Policy) String() string {
	var b strings.Builder
	for _, f := range p {
		if f.Value == 0 || f.Name == "Access" || f.Name == "Ver3" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if f.Value == 1 {
			fmt.Fprintf(&b, "%s", f.Name)
		} else {
			fmt.Fprintf(&b, "%s=%d", f.Name, f.Value)
		}
	}
	return b.String()
}
