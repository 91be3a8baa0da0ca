//go:build !linux

package proxy

import "net"

// canSegment says that no kernel is asked to cut here.
func canSegment(*net.UDPConn) bool { return false }

type segmentControl struct{}

func segments(*segmentControl, int) []byte { return nil }
