package syscalls

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Remounter is a filesystem that wants to know of a remount. The Sentry itself only
// changes the flags of the mount.
type Remounter interface {
	// Remount changes the options of the whole filesystem, as mount(2) with
	// MS_REMOUNT does; data is its last argument.
	Remount(ctx context.Context, readOnly bool, data string) error
}

// Flags of mount(2) and umount2(2) that the Sentry refuses.
const (
	msNoDirAtime = 1 << 11
	msUnbindable = 1 << 17
	mntForce     = 1
	mntExpire    = 4
)

// mount implements mount(2): it asks the filesystem before a remount, and passes over
// flags that only tune.
func mount(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	flags := args[3].Uint64()
	if flags&linux.MS_MGC_MSK == linux.MS_MGC_VAL {
		flags &^= linux.MS_MGC_MSK
	}
	flags &^= msNoDirAtime
	if flags&msUnbindable != 0 {
		// An unbindable mount is a private one that cannot be bound; nothing
		// here stops the binding.
		flags = flags&^msUnbindable | linux.MS_PRIVATE
	}
	args[3].Value = uintptr(flags)
	if flags&linux.MS_REMOUNT == 0 || flags&linux.MS_BIND != 0 {
		return sentryMount(t, sysno, args)
	}
	sentry := func(flags uint64) error {
		args[3].Value = uintptr(flags)
		_, _, err := sentryMount(t, sysno, args)
		return err
	}
	return 0, nil, remount(t, args[1].Pointer(), flags, args[4].Pointer(), sentry)
}

// remount changes the mount at a path, by way of sentry, and tells its filesystem. A
// mount that is written to does not become read-only, and then nor does the filesystem.
func remount(t *kernel.Task, target hostarch.Addr, flags uint64, dataAddr hostarch.Addr, sentry func(flags uint64) error) error {
	if !t.Credentials().HasCapabilityIn(linux.CAP_SYS_ADMIN, t.MountNamespace().Owner) {
		return linuxerr.EPERM
	}
	name, err := t.CopyInString(target, linux.PATH_MAX)
	if err != nil {
		return err
	}
	data := ""
	if dataAddr != 0 {
		if data, err = t.CopyInString(dataAddr, hostarch.PageSize); err != nil {
			return err
		}
	}
	root := t.FSContext().RootDirectory()
	defer root.DecRef(t)
	start := t.FSContext().WorkingDirectory()
	defer start.DecRef(t)
	at, err := t.Kernel().VFS().GetDentryAt(t, t.Credentials(), &vfs.PathOperation{
		Root: root, Start: start, Path: fspath.Parse(name), FollowFinalSymlink: true,
	}, &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer at.DecRef(t)
	const aboutATime = linux.MS_NOATIME | msNoDirAtime | linux.MS_RELATIME | linux.MS_STRICTATIME
	if given := t.Arch().SyscallArgs()[3].Uint64(); given&aboutATime == 0 && at.Mount().MountFlags()&linux.ST_NOATIME != 0 {
		flags |= linux.MS_NOATIME // as in Linux it stays where no flag is about it
	}
	fs, ok := at.Mount().Filesystem().Impl().(Remounter)
	if !ok {
		return sentry(flags)
	}
	if flags&linux.MS_RDONLY == 0 {
		if err := fs.Remount(t, false, data); err != nil {
			return err
		}
		return sentry(flags)
	}
	was := at.Mount().ReadOnly()
	if err := sentry(flags); err != nil {
		return err
	}
	err = fs.Remount(t, true, data)
	if err != nil && !was {
		if back := sentry(flags &^ linux.MS_RDONLY); back != nil {
			return back
		}
	}
	return err
}

// umount implements umount2(2). MNT_FORCE is for filesystems whose server is gone,
// and does nothing elsewhere; a mount is never marked for MNT_EXPIRE, so that the
// first call of two answers EAGAIN as it does in Linux, and the second too.
func umount(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	flags := args[1].Int()
	if flags&mntExpire != 0 {
		if flags&(mntForce|linux.MNT_DETACH) != 0 {
			return 0, nil, linuxerr.EINVAL
		}
		return 0, nil, linuxerr.EAGAIN
	}
	args[1].Value = uintptr(flags &^ mntForce)
	return sentryUmount(t, sysno, args)
}
