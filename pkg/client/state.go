package client

import "strconv"

// State is where a Client is in its life:
//
//	Idle → Dialing → Configuring → Up ┐
//	         ↑           ↓            │ lost
//	         └───────  Waiting  ←─────┘         any → Stopped
type State int32

const (
	// Idle: Run has not been called. Nothing is open.
	Idle State = iota
	// Dialing: a session is being opened. The endpoint and its addresses stay as
	// the last session left them; what the endpoint sends waits or is dropped there.
	Dialing
	// Configuring: a session is open and carries DHCP alone, inbound frames already
	// reach the endpoint. Apply is called at the end of it, unless there is no
	// address to apply.
	Configuring
	// Up: frames flow both ways. Apply may be called again at any time by a renewed
	// lease.
	Up
	// Waiting: no session, a timer runs. As Dialing.
	Waiting
	// Stopped: Run has returned. The lease is released and the configuration taken
	// back, as far as the network still let us.
	Stopped
)

var stateNames = [...]string{"Idle", "Dialing", "Configuring", "Up", "Waiting", "Stopped"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "State(" + strconv.Itoa(int(s)) + ")"
	}
	return stateNames[s]
}
