package config

import (
	"log/slog"
	"time"
)

var logOptions = []option{
	{logging, "log-level", "LEVEL", "info",
		"debug, info, warn or error",
		one(parseLevel, func(d *draft) *slog.Level { return &d.Log.Level })},
	{logging, "log-json", "", "false",
		"a JSON object per line instead of text",
		one(parseBool, func(d *draft) *bool { return &d.Log.JSON })},
	{logging, "stats", "TIME", "",
		"log the counters every so often, such as 10s; SIGUSR1 has all of them written as a table at any time",
		one(parseDelay, func(d *draft) *time.Duration { return &d.Log.Statistics })},
}
