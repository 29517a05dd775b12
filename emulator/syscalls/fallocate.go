package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/reach"
)

// Fallocator is an open file that knows every mode of fallocate(2). The Sentry itself
// refuses all but 0.
type Fallocator interface {
	// Fallocate implements fallocate(2) on [off, off+n), which is checked.
	Fallocate(ctx context.Context, mode uint32, off, n int64) error
}

// falOwnSize are the modes of fallocate(2) that do not make a file as long as their
// range: keep size, collapse and insert.
const falOwnSize = 0x01 | 0x08 | 0x20

// fallocate implements fallocate(2).
func fallocate(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	file := t.GetFile(args[0].Int())
	if file == nil {
		return 0, nil, linuxerr.EBADF
	}
	defer file.DecRef(t)
	impl, ok := file.Impl().(Fallocator)
	if inner, err := reach.OverlayFile(t, file); err != nil {
		return 0, nil, err
	} else if inner != nil {
		defer inner.DecRef(t)
		impl, ok = inner.Impl().(Fallocator)
	}
	if !ok {
		return sentryFallocate(t, sysno, args)
	}
	mode, off, n := args[1].Uint(), args[2].Int64(), args[3].Int64()
	switch {
	case off < 0 || n <= 0:
		return 0, nil, linuxerr.EINVAL
	case !file.IsWritable():
		return 0, nil, linuxerr.EBADF
	case off+n < 0:
		return 0, nil, linuxerr.EFBIG
	}
	if limit := limits.FromContext(t).Get(limits.FileSize).Cur; mode&falOwnSize == 0 && uint64(off+n) > limit {
		_ = t.SendSignal(&linux.SignalInfo{Signo: int32(linux.SIGXFSZ), Code: linux.SI_USER})
		return 0, nil, linuxerr.EFBIG
	}
	if err := impl.Fallocate(t, mode, off, n); err != nil {
		return 0, nil, err
	}
	file.Dentry().InotifyWithParent(t, linux.IN_MODIFY, 0, vfs.PathEvent)
	return 0, nil, nil
}
