//go:build !unix

package main

import "os"

// reloadSignal does not exist here; files are read again when they have changed.
var reloadSignal os.Signal
