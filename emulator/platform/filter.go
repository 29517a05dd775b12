//go:build amd64

package platform

import (
	"golang.org/x/sys/unix"
)

// What seccomp(2) returns for a filter, and offsets in struct seccomp_data.
const (
	retNotify      = 0x7fc00000
	retAllow       = 0x7fff0000
	retKillProcess = 0x80000000

	dataNR     = 0
	dataArch   = 4
	dataIPLow  = 8
	dataIPHigh = 12

	auditX86_64 = 0xc000003e
)

// guestFilter is that of threads which run guest code: no system call is made, but for the
// thread's own end, from one instruction of the stub.
func guestFilter(c *code) []unix.SockFilter {
	return []unix.SockFilter{
		load(dataNR),
		equal(unix.SYS_EXIT, 1, 0),
		statement(unix.BPF_RET|unix.BPF_K, retNotify),
		load(dataIPLow),
		equal(uint32(c.left), 0, 4),
		load(dataIPHigh),
		equal(uint32(c.left>>32), 0, 2),
		load(dataArch),
		equal(auditX86_64, 1, 0),
		statement(unix.BPF_RET|unix.BPF_K, retNotify),
		statement(unix.BPF_RET|unix.BPF_K, retAllow),
	}
}

// mapperFilter lets the mapper ask and, from one instruction, map. Whatever else it did
// would be a fault of ours: it ends the process.
func mapperFilter(c *code) []unix.SockFilter {
	kill := statement(unix.BPF_RET|unix.BPF_K, retKillProcess)
	return []unix.SockFilter{
		load(dataArch),
		equal(auditX86_64, 1, 0),
		kill,
		load(dataNR),
		equal(notifyMapper, 0, 1),
		statement(unix.BPF_RET|unix.BPF_K, retNotify),
		equal(unix.SYS_MMAP, 3, 0),
		equal(unix.SYS_MUNMAP, 2, 0),
		equal(unix.SYS_MPROTECT, 1, 0),
		kill,
		load(dataIPLow),
		equal(uint32(c.mapped), 1, 0),
		kill,
		load(dataIPHigh),
		equal(uint32(c.mapped>>32), 1, 0),
		kill,
		statement(unix.BPF_RET|unix.BPF_K, retAllow),
	}
}

func statement(code uint16, k uint32) unix.SockFilter {
	return unix.SockFilter{Code: code, K: k}
}

// load takes a word of struct seccomp_data.
func load(offset uint32) unix.SockFilter {
	return statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
}

// equal skips yes or no instructions.
func equal(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
}
