package ext4fs

import "golang.org/x/sys/unix"

var oldModeArgs = map[uintptr]int{
	unix.SYS_OPEN:  2,
	unix.SYS_CREAT: 1,
	unix.SYS_MKDIR: 1,
	unix.SYS_MKNOD: 1,
}
