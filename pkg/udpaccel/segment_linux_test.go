package udpaccel

// whole says whether the kernel is to cut runs.
func whole(p *Path, segment bool) {
	s := p.sock.(*batchSocket)
	s.out.noGSO = s.out.noGSO || !segment
}
