package config

var runOptions = []option{
	{runMode, "publish", "[ADDR:]PORT:PORT", "",
		"lead a port of this machine to one inside, such as 8080:80: of 127.0.0.1 unless another address stands " +
			"before it, TCP unless udp/ does",
		many(parsePublish, func(d *draft) *[]Publish { return &d.Run.Publish })},
	{runMode, "share", "NAME", "",
		"one session for all commands that are run with this name, each with an address of its own; the first " +
			"connects, the last ends it",
		one(parseShare, func(d *draft) *string { return &d.Run.Share })},
	{runMode, "attach", "NAME", "",
		"use the session of a command that was run with -share NAME; needs no server and no login",
		one(parseShare, func(d *draft) *string { return &d.Run.Attach })},
	{runMode, "pid", "N", "0",
		"in place of running a command, give a network to that of process N, such as a container's; it takes " +
			"being root there; 0 is none",
		one(parsePID, func(d *draft) *int { return &d.Run.PID })},
	{runMode, "netns", "PATH", "",
		"the same for a network namespace by its path, such as /run/netns/NAME; takes root",
		one(parsePath, func(d *draft) *string { return &d.Run.NetNS })},
	{runMode, "proxy-env", "", "false",
		"where the system forbids networks of its own, tell the command of proxies by ALL_PROXY and its like instead: " +
			"what it does not send by those goes beside the VPN",
		one(parseBool, func(d *draft) *bool { return &d.Run.ProxyEnv })},
	{runMode, "capture", "", "false",
		"let the command capture the packets of its network, as tcpdump does",
		one(parseBool, func(d *draft) *bool { return &d.Run.Capture })},
}
