// Package offload turns large frames into small ones and back.
//
// # Theory of operation
//
// A network stack spends about the same work on a packet of 60 bytes as on one of
// 60,000. What makes networking fast is therefore to walk through a stack rarely,
// with a lot in hand. Network cards help with that under the name of offload: the
// stack hands down one super-frame, a frame with far more payload than the link
// carries, and the card cuts it into frames (segmentation, TSO and USO); in the other
// direction the driver glues frames of one flow into a super-frame (coalescing, GRO).
// This package is that part of a network card, as two pure functions of bytes:
//
//	                 Split
//	          ───────────────────►   [hdr|seg 0] [hdr|seg 1] … [hdr|seg n]
//	Super                                        frames
//	          ◄───────────────────   [hdr|seg 0] [hdr|seg 1] … [hdr|seg n]
//	                Coalescer
//
// A Super is a header, a list of payload slices and a Meta that says how it is to be
// cut. Meta is what Linux puts before a frame of a TAP device (virtio_net_hdr) and
// what a user-space stack attaches to a packet.
//
// Split copies the header in front of each piece of payload and rewrites what
// differs from frame to frame:
//
//	IPv4   total length, identification (first + i), header checksum
//	IPv6   payload length
//	TCP    sequence number (first + i·size), checksum;
//	       FIN and PSH stay on the last segment only, CWR on the first only
//	UDP    length, checksum
//
// The Coalescer does the reverse, but only where nothing is lost: a frame joins a
// run of frames of its flow if Split would give that very frame back. So it has the
// same headers as the first of the run apart from the fields above, continues it
// without a gap and carries correct checksums. Each frame's fate is one of:
//
//	join a run    the flow's latest run is open and the frame continues it exactly
//	begin a run   it could be continued: TCP or UDP, payload, no unusual flags
//	supersede     it and the frame before it in its flow are acknowledgements
//	stay alone    all else; it passes through verbatim and ends its flow's run
//
// A run ends with PSH (the sender says: deliver now), with a payload shorter than
// the first, at 64 KiB, and with the batch. Nothing waits for more: Flush follows the
// last Push of a batch and hands everything on. There is no timer.
//
// # What is equal
//
// Split(Coalesce(frames)) is, flow by flow, the frames that went in, byte for byte, less
// those that Thin left out, with two exceptions for frames that were part of a run:
//
//   - What followed the packet in the frame (Ethernet padding) is gone.
//   - The IPv4 identification of packets with DF set counts up from the first one's.
//     It has no meaning there (RFC 6864 section 4.1). Without DF a frame joins only
//     if its identification counts up already.
//
// In particular a different window, acknowledgement, option (time stamp), TTL, ToS
// or flow label begins a new run, and so does a frame that arrives out of order:
// nothing is sorted or repaired here.
//
// # Acknowledgements
//
// A receiver of bulk data acknowledges every second segment, so that its sender's stack
// is walked through as often as by a flood of tiny frames, only to hear at the end of
// the batch what it could have heard at once. With Thin an acknowledgement without data
// is left out if the next frame of its flow in the batch is one too and says all that
// it did (RFC 3449, 5.2.1, and Linux's sch_cake call it ACK filtering): it acknowledges
// more, or selectively more, of all that the first did; its other fields but the window
// are the same, and its time stamps no earlier. What tells of something else passes:
// repeated acknowledgements, bytes that came twice, news of congestion or of the window
// alone. This is for the end of a connection, as gluing is: who passes frames on should
// leave them as they are.
//
// # Order
//
// Frames of one flow stay in order, always. A frame that joins a run, or supersedes
// another, overtakes frames of other flows that came between, at most one batch of
// them; a frame that stays alone overtakes nothing and is delayed by nothing but its
// batch. What might belong to any flow (a fragment, a malformed header) is a barrier:
// no later frame joins a run begun before it.
//
// # Checksums
//
// A frame's checksums are verified before it may join a run. The super-frame then
// holds the sum of the pseudo header alone and asks the receiver to complete it
// (NeedsCsum), which also tells it that there is nothing left to verify. A frame with
// a wrong checksum passes through untouched, for the receiver to reject and count.
//
// # Limits
//
// Ethernet II with up to two VLAN tags (0x8100, 0x88a8), IPv4 and IPv6, TCP and UDP.
// IPv4 options and IPv6 extension headers are understood when splitting and
// verifying; such frames are never coalesced. A packet is at most 65535 bytes.
//
// # Goroutines and memory
//
// There are no goroutines and no locks; a Coalescer belongs to one goroutine at a
// time. Input is lent for the call, or until Flush. Nothing is allocated once arenas
// and lists have grown to their working size.
//
// # Errors
//
// Split fails on metadata that contradict the frame, and then appends nothing. The
// Coalescer does not fail.
package offload
