// Package platform runs guest code in processes of the host and catches what it does, as
// an implementation of gVisor's platform interfaces. docs/platform.md is its design.
//
// A stub process is the address space of a guest process; its first thread makes
// threads, its mapper maps, its stub threads run guest code, one for each guest thread
// that has run. The zygote forks stub processes. A slot is the memory that a stub
// thread shares with us, its frame the signal frame there.
package platform
