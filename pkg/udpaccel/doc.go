// Package udpaccel is SoftEther's UDP acceleration: datagrams beside a session's TCP
// connections, each with one Ethernet frame.
package udpaccel
