package reach

import _ "unsafe" // go:linkname

// BeforeFork, AfterFork and AfterForkInChild are the Go runtime's preparations for a
// fork without an exec, as os/exec and gVisor's platforms use them: signals are blocked
// in between, and the child starts with the default handlers. What runs in the child
// must be marked go:nosplit and go:norace and make raw system calls only.

//go:linkname BeforeFork syscall.runtime_BeforeFork
func BeforeFork()

// AfterFork ends in the parent what BeforeFork began.
//
//go:linkname AfterFork syscall.runtime_AfterFork
func AfterFork()

// AfterForkInChild ends in the child what BeforeFork began.
//
//go:linkname AfterForkInChild syscall.runtime_AfterForkInChild
func AfterForkInChild()
