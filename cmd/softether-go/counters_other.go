//go:build !unix

package main

import "os"

// statisticsSignal does not exist here.
var statisticsSignal os.Signal
