//go:build !cgo

package main

// prepare has nothing to do in a program without a C library.
func prepare() error { return nil }
