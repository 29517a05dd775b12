package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/lock"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// fcntl implements fcntl(2). A range that begins at the file's position begins at 0 in
// a file that has none; the Sentry refuses it there. lockf(3) asks for such ranges, and
// systemd does of the socket pairs by which its services share a namespace.
func fcntl(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	command := args[1].Int()
	switch command {
	case linux.F_SETLK, linux.F_SETLKW, linux.F_GETLK, linux.F_OFD_SETLK, linux.F_OFD_SETLKW, linux.F_OFD_GETLK:
	default:
		return sentryFcntl(t, sysno, args)
	}
	file := t.GetFile(args[0].Int())
	if file == nil {
		return 0, nil, linuxerr.EBADF
	}
	defer file.DecRef(t)
	var ask linux.Flock
	if _, err := ask.CopyIn(t, args[2].Pointer()); err != nil {
		return 0, nil, err
	}
	if ask.Whence != linux.SEEK_CUR {
		return sentryFcntl(t, sysno, args)
	}
	if _, err := file.Seek(t, 0, linux.SEEK_CUR); !linuxerr.Equals(linuxerr.ESPIPE, err) {
		return sentryFcntl(t, sysno, args)
	}
	r, err := lock.ComputeRange(ask.Start, ask.Len, 0)
	if err != nil {
		return 0, nil, err
	}
	switch command {
	case linux.F_GETLK, linux.F_OFD_GETLK:
		return 0, nil, testLock(t, file, command == linux.F_OFD_GETLK, ask, r, args)
	}
	return 0, nil, setLock(t, file, command, ask, r)
}

// lockOwner is whose a lock is, and the process it is told to belong to.
func lockOwner(t *kernel.Task, file *vfs.FileDescription, ofd bool) (lock.UniqueID, int32) {
	if ofd {
		return file, -1
	}
	return t.FDTable(), int32(t.TGIDInRoot())
}

// setLock locks or unlocks a range.
func setLock(t *kernel.Task, file *vfs.FileDescription, command int32, ask linux.Flock, r lock.LockRange) error {
	ofd := command == linux.F_OFD_SETLK || command == linux.F_OFD_SETLKW
	if ofd && ask.PID != 0 {
		return linuxerr.EINVAL
	}
	wait := command == linux.F_SETLKW || command == linux.F_OFD_SETLKW
	owner, pid := lockOwner(t, file, ofd)
	switch ask.Type {
	case linux.F_RDLCK:
		if !file.IsReadable() {
			return linuxerr.EBADF
		}
		return file.LockPOSIX(t, owner, pid, lock.ReadLock, r, wait)
	case linux.F_WRLCK:
		if !file.IsWritable() {
			return linuxerr.EBADF
		}
		return file.LockPOSIX(t, owner, pid, lock.WriteLock, r, wait)
	case linux.F_UNLCK:
		return file.UnlockPOSIX(t, owner, r)
	}
	return linuxerr.EINVAL
}

// testLock tells which lock is in the way of one.
func testLock(t *kernel.Task, file *vfs.FileDescription, ofd bool, ask linux.Flock, r lock.LockRange, args arch.SyscallArguments) error {
	kind := lock.ReadLock
	switch ask.Type {
	case linux.F_RDLCK:
	case linux.F_WRLCK:
		kind = lock.WriteLock
	default:
		return linuxerr.EINVAL
	}
	owner, _ := lockOwner(t, file, ofd)
	found, err := file.TestPOSIX(t, owner, kind, r)
	if err != nil {
		return err
	}
	if !ofd {
		holder := t.PIDNamespace().Root().TaskWithID(kernel.ThreadID(found.PID))
		found.PID = int32(t.PIDNamespace().IDOfTask(holder))
	}
	_, err = found.CopyOut(t, args[2].Pointer())
	return err
}
