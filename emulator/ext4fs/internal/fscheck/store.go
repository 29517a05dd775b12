package main

import "runtime/debug"

// store writes to m, which may raise SIGBUS where the file was cut meanwhile.
func store(m []byte) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	m[0]++
}
