package config

import "time"

var serviceOptions = []option{
	{service, "health", "[ADDR:]PORT", "",
		"tell by HTTP whether the tunnel works, at /livez, /readyz and /startupz, and the counters at /metrics: " +
			"here, or at unix:PATH for the same user alone, or unix:@NAME that needs no file; softether-go health asks",
		many(parseHealth, func(d *draft) *[]string { return &d.Service.Health })},
	{service, "health-target", "TARGET", "",
		"whom to ask through the tunnel for that: an address, by ping, or a name, of the VPN's name servers; " +
			"else the gateway, by ARP or neighbour discovery",
		one(parseTarget, func(d *draft) *string { return &d.Service.HealthTarget })},
	{service, "drain", "TIME", "2s",
		"how long open connections of the proxies may go on at the end; 0s ends them at once",
		span(parseDrain, func(d *draft) *time.Duration { return &d.Service.Drain })},
}

// span fills a duration of which zero is not the default.
func span(parse func(string) (time.Duration, error), at func(*draft) *time.Duration) value {
	v := one(parse, at)
	v.show = func(d *draft) string { return at(d).String() }
	return v
}
