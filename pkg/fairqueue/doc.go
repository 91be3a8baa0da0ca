// Package fairqueue is the queue before the tunnel: where what the host sends waits
// when it is more than the way to the server takes.
//
// # Theory of operation
//
// Something always waits when a program sends as fast as it can. In the socket below
// the tunnel it would wait in one line with everything else, and so would it in the
// kernel's queue before a TAP, which holds 500 super-frames of 64 KiB. Therefore an
// Endpoint wraps another one, takes all frames that it sends at once, and keeps them
// in a queue for each flow. This is FQ-CoDel (RFC 8290):
//
//   - Flows take turns, a quantum of bytes each (Schedule, which netstack's queue of
//     super-segments uses too). One that sends little,
//     such as a call, a question or an acknowledgement, goes ahead of all that have
//     been sending.
//   - A flow whose frames have waited for more than 5 ms during 100 ms is told to slow
//     down: by ECN if its sender understands that, else by a loss (CoDel, RFC 8289).
//     What is in the queue then is what bursts need, not what stands.
//   - What waits is bounded in bytes. Beyond that the flow that has most loses.
//
// What has been written can no longer be overtaken. So the Endpoint asks the Path how
// much waits unsent below, and writes a batch only when less than half of what suits
// the way's speed does.
//
//	endpoint ─► push ─┬─ nothing waits, and the way has room ────────► dst.WriteFrames
//	                  └► queues by flow ─► turns ─► CoDel ─► batch ─┘
//
// While the way keeps up, a batch is written as it came, on the goroutine that brought
// it, without a copy. Otherwise each frame is copied once, into a store that is
// allocated as it is needed and kept until Run ends.
//
// # Limits
//
// Two megabytes wait at most, counted in chunks of 256 or 1600 bytes, and the store
// never has more than twice that. Flows are told apart by a hash into 1024 queues; two
// in one queue share its fate. What waits when Run ends is dropped: by the time there
// is another session it would be stale.
//
// # Concurrency
//
// Run has one goroutine that writes what waits when the way has room again. Nobody
// waits for the way but that one; the wrapped endpoint's goroutine writes only what
// the way takes at once, and stands back for a millisecond at most if the other is due.
// One lock guards everything and is never held while writing. Inbound frames pass
// untouched.
//
// # Errors
//
// An error of the Writer ends Run, which returns it. A frame that is dropped is counted
// once, by the reason.
package fairqueue
