package ext4fs

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/ubdfmt"
)

func (t *FilesystemType) logf(format string, args ...any) {
	if t.Logf != nil {
		t.Logf(format, args...)
	}
}

// errorf is logf for what goes wrong.
func (t *FilesystemType) errorf(format string, args ...any) {
	if t.Errorf == nil {
		t.logf(format, args...)
		return
	}
	t.Errorf(format, args...)
}

// mount returns the filesystem of a disk, opened if it is not mounted yet, and a
// reference on its root.
func (t *FilesystemType) mount(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, fsType vfs.FilesystemType, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	var key uint64
	disk, internal := opts.InternalData.(Disk)
	if internal {
		key = deviceKey(disk.Major, disk.Minor)
		if source == "" {
			source = "/dev/" + disk.Name
		}
	} else {
		if !creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
			// As in Linux root of a user namespace may not: what is on a disk is
			// read by the kernel.
			return nil, nil, linuxerr.EPERM
		}
		major, minor, err := BlockDevice(ctx, vfsObj, creds, source)
		if err != nil {
			t.logf("%s: Can't lookup blockdev", source)
			return nil, nil, err
		}
		key = deviceKey(major, minor)
		disk.Major, disk.Minor = major, minor
	}
	data := opts.Data
	if flags := flagsOfMount(ctx); flags != "" {
		data = flags + "," + data
	}

	for {
		t.mu.Lock()
		fs := t.open[key]
		if fs == nil {
			break
		}
		if fs.VFSFS.TryIncRef() {
			t.mu.Unlock()
			if fs.VFSFS.FilesystemType().Name() != fsType.Name() { // to Linux another filesystem, and the disk has one
				fs.VFSFS.DecRef(ctx)
				t.errorf("%s: Can't open blockdev", source)
				return nil, nil, linuxerr.EBUSY
			}
			if internal && disk.Release != nil {
				disk.Release()
			}
			return t.mountAgain(ctx, fs, data)
		}
		// The last mount is going: wait until the disk is free.
		t.mu.Unlock()
		<-fs.closed
	}
	defer t.mu.Unlock()

	if !internal {
		if t.Disks == nil {
			return nil, nil, linuxerr.ENXIO
		}
		var err error
		if disk, err = t.Disks.Claim(disk.Major, disk.Minor); err != nil {
			return nil, nil, errno(err)
		}
	}
	fs, err := t.openDisk(ctx, vfsObj, creds, fsType, disk, source, data)
	if err != nil {
		if !internal && disk.Release != nil {
			disk.Release()
		}
		return nil, nil, err
	}
	if t.open == nil {
		t.open = make(map[uint64]*filesystem)
	}
	t.open[key] = fs
	fs.Root().IncRef()
	return &fs.VFSFS, fs.Root().VFS(), nil
}

// mountAgain is a further mount of a filesystem, on which it has a reference. Like
// Linux it takes no other options than the first mount's, and no other of ro and rw.
func (t *FilesystemType) mountAgain(ctx context.Context, fs *filesystem, data string) (*vfs.Filesystem, *vfs.Dentry, error) {
	now := fs.options()
	base := *now
	base.ro = false // that is this mount's to say
	o, err := parseOptions(data, &base)
	if err != nil {
		t.errorf("ext4: %v", err)
		fs.VFSFS.DecRef(ctx)
		return nil, nil, linuxerr.EINVAL
	}
	if o.ro != now.ro {
		fs.VFSFS.DecRef(ctx)
		return nil, nil, linuxerr.EBUSY
	}
	fs.Root().IncRef()
	return &fs.VFSFS, fs.Root().VFS(), nil
}

// deviceKey is a device number as stat(2) has it.
func deviceKey(major, minor uint32) uint64 { return unix.Mkdev(major, minor) }

// BlockDevice returns the number of the block device at source, as mount(2) has it. It fails
// with ENOTBLK where there is something else.
func BlockDevice(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, source string) (major, minor uint32, err error) {
	if source == "" {
		return 0, 0, linuxerr.EINVAL
	}
	root := vfs.RootFromContext(ctx)
	defer root.DecRef(ctx)
	path := fspath.Parse(source)
	start := root
	if t := kernel.TaskFromContext(ctx); t != nil && !path.Absolute {
		start = t.FSContext().WorkingDirectory()
		defer start.DecRef(ctx)
	}
	stat, err := vfsObj.StatAt(ctx, creds, &vfs.PathOperation{Root: root, Start: start, Path: path, FollowFinalSymlink: true}, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return 0, 0, err
	}
	if stat.Mode&linux.S_IFMT != linux.S_IFBLK {
		return 0, 0, linuxerr.ENOTBLK
	}
	return stat.RdevMajor, stat.RdevMinor, nil
}

// mountFlags are the flags of the mount(2) that the task of ctx is making, if it is
// making one.
func mountFlags(ctx context.Context) (flags uint64, ok bool) {
	t := kernel.TaskFromContext(ctx)
	if t == nil || t.Arch() == nil || t.Arch().SyscallNo() != unix.SYS_MOUNT {
		return 0, false
	}
	return t.Arch().SyscallArgs()[3].Uint64(), true
}

// setFlags applies those flags of a remount that the Sentry keeps to itself. As in
// Linux, dirsync stays what it was, and so do the rules for access times where no flag
// is about them.
func (o *options) setFlags(flags uint64) {
	o.sync = flags&linux.MS_SYNCHRONOUS != 0
	o.mand = flags&linux.MS_MANDLOCK != 0
	o.lazytime = flags&unix.MS_LAZYTIME != 0
	if flags&(linux.MS_NOATIME|linux.MS_NODIRATIME|linux.MS_RELATIME|linux.MS_STRICTATIME) != 0 {
		o.setAccessTimes(flags)
	}
}

// setAccessTimes applies the flags that are about access times, but for MS_NOATIME, which
// the Sentry's mount has.
func (o *options) setAccessTimes(flags uint64) {
	o.nodiratime = flags&linux.MS_NODIRATIME != 0
	o.strictatime = flags&linux.MS_STRICTATIME != 0
}

// AccessTimes says which access times are kept otherwise than relatime has it: none of
// directories, and every one.
func (fs *filesystem) AccessTimes() (nodiratime, strict bool) {
	o := fs.options()
	return o.nodiratime, o.strictatime
}

// ReadOnly says that the filesystem is read-only, whatever its mounts are.
func (fs *filesystem) ReadOnly() bool { return fs.readOnly.Load() }

// flagsOfMount gives, as options, the flags of the mount(2) that the task of ctx is
// making and that the Sentry keeps to itself.
func flagsOfMount(ctx context.Context) string {
	flags, _ := mountFlags(ctx)
	var out []string
	for _, f := range []struct {
		flag uint64
		name string
	}{
		{linux.MS_RDONLY, "ro"},
		{linux.MS_SYNCHRONOUS, "sync"},
		{linux.MS_DIRSYNC, "dirsync"},
		{linux.MS_MANDLOCK, "mand"},
		{unix.MS_LAZYTIME, "lazytime"},
	} {
		if flags&f.flag != 0 {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, ",")
}

// openDisk opens the filesystem on disk.
func (t *FilesystemType) openDisk(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, fsType vfs.FilesystemType, disk Disk, source, data string) (*filesystem, error) {
	fs := &filesystem{
		typ:         t,
		disk:        disk,
		source:      source,
		maxHostRuns: maxHostRuns(),
		mf:          pgalloc.MemoryFileFromContext(ctx),
		clock:       ktime.RealtimeClockFromContext(ctx),
		userns:      creds.UserNamespace.Root(),
		closed:      make(chan struct{}),
		hostFiles:   make(map[*os.File]*hostFile),
	}
	fs.MostCached = maxCachedDentries
	fs.Init(fs)
	// The superblock's defaults are known once it is open, and how to open it is
	// known from the options: they are read twice.
	o, err := parseOptions(data, defaultOptions(ext4.Info{}))
	if err != nil {
		t.errorf("ext4: %v", err)
		return nil, linuxerr.EINVAL
	}
	if disk.ReadOnly && !o.ro {
		return nil, linuxerr.EACCES
	}
	if o.noload && !o.ro && needsRecovery(disk.Device) {
		fs.logError("required journal recovery suppressed and not mounted read-only")
		return nil, linuxerr.EROFS
	}
	var panics func(error)
	if t.Panic != nil {
		panics = func(error) { t.Panic(fmt.Errorf("EXT4-fs (device %s): panic forced after error", disk.Name)) }
	}
	engine, err := ext4.Open(disk.Device, ext4.Options{
		ReadOnly:    o.ro,
		NoWrite:     disk.ReadOnly || o.noload && o.ro,
		Discard:     o.discard,
		CommitEvery: o.commit,
		CacheBytes:  t.CacheBytes,
		Panic:       panics,
		Now: func() time.Time {
			sec, nsec := fs.clock.Now().Unix()
			return time.Unix(sec, nsec)
		},
		Logf: fs.engineLog,
	})
	if err != nil {
		var notExt *ext4.NotExtError
		var unsupported *ext4.UnsupportedError
		if errors.As(err, &notExt) {
			what := ""
			if notExt.Found != "" {
				what = ", found " + notExt.Found
			}
			fs.logError("VFS: Can't find ext4 filesystem%s", what)
			return nil, linuxerr.EINVAL
		}
		fs.logError("%v", err)
		if errors.As(err, &unsupported) && !unsupported.Write {
			return nil, linuxerr.EINVAL
		}
		return nil, mountErrno(err)
	}
	fs.engine, fs.info = engine, engine.Info()
	if name := fsType.Name(); name != Name {
		if !fs.info.FitsType(name, o.ro) {
			fs.logError("couldn't mount as %s due to feature incompatibilities", name)
			if err := engine.Close(); err != nil {
				fs.logError("error: close: %v", err)
			}
			return nil, linuxerr.EINVAL
		}
		fs.log("mounting %s file system using the ext4 subsystem", name)
	}
	fs.blockSize, fs.maxFileSize = engine.BlockSize(), fs.info.MaxFileSize
	if fs.maxFileSize <= 0 || fs.maxFileSize > maxOffset-1<<20 {
		fs.maxFileSize = maxOffset - 1<<20
	}
	_, raw := disk.Device.(*ubdfmt.Raw)
	fs.layered = !raw
	if d, ok := disk.Device.(interface{ Layered() bool }); ok {
		// A device that only counts what passes tells of the one below it.
		fs.layered = d.Layered()
	}
	fs.defaults = defaultOptions(fs.info)
	if fs.defaults.ignored != nil {
		fs.log("failed to apply the options in the superblock '%s': %v", fs.info.MountOpts, fs.defaults.ignored)
	}
	if o, err = parseOptions(data, fs.defaults); err == nil {
		err = o.checkJournal(fs.info.Journal, fs.defaults)
	}
	if err != nil {
		return nil, fs.abandon(err)
	}
	if flags, ok := mountFlags(ctx); ok {
		o.setAccessTimes(flags)
	}
	fs.apply(o)
	engine.SetDataMode(dataModes[o.dataMode()])
	fs.readOnly.Store(engine.ReadOnly())

	node, err := engine.Root()
	if err != nil {
		return nil, fs.abandon(err)
	}
	i, err := fs.inodeOf(node)
	if err != nil {
		return nil, fs.abandon(err)
	}
	if !i.IsDir() {
		fs.DropInode(ctx, i)
		return nil, fs.abandon(&ext4.CorruptError{What: "root inode", Field: "mode is no directory's"})
	}
	fs.SetRoot(i)
	fs.VFSFS.Init(vfsObj, fsType, fs)
	mode := "r/w"
	if fs.readOnly.Load() {
		mode = "ro"
	}
	if fs.info.Journal && fs.options().data == "journal" {
		fs.typ.warned.Do(func() {
			fs.typ.logf("EXT4-fs: Warning: mounting with data=journal disables delayed allocation, dioread_nolock, O_DIRECT and fast_commit support!")
		})
	}
	fs.log("mounted filesystem %s %s %s. Quota mode: %s.", uuidString(fs.info.UUID), mode, fs.dataMode(), fs.quotaMode())
	return fs, nil
}

// needsRecovery says whether the superblock has the flag of a journal to be replayed.
func needsRecovery(dev ubdfmt.Device) bool {
	b := make([]byte, format.SuperblockSize)
	if _, err := dev.ReadAt(b, 1024); err != nil {
		return false // opening it will fail as well
	}
	return binary.LittleEndian.Uint32(b[0x60:])&uint32(format.IncompatRecover) != 0
}

// abandon closes the engine of a filesystem that could not be mounted.
func (fs *filesystem) abandon(err error) error {
	fs.logError("%v", err)
	if cerr := fs.engine.Close(); cerr != nil {
		fs.logError("error: close: %v", cerr)
	}
	return mountErrno(err)
}

// dataModes are the values of data=.
var dataModes = map[string]ext4.DataMode{"ordered": ext4.DataOrdered, "journal": ext4.DataJournal, "writeback": ext4.DataWriteback}

// dataMode is how Linux names the order in which data and metadata get to the disk.
func (fs *filesystem) dataMode() string {
	mode := fs.options().dataMode()
	switch {
	case !fs.info.Journal:
		return "without journal"
	case mode == "journal":
		mode = "journalled"
	}
	return "with " + mode + " data mode"
}

// quotaMode is how Linux names the way in which the usage of quotas gets to the disk.
func (fs *filesystem) quotaMode() string {
	switch {
	case fs.info.RoCompat&format.RoQuota == 0:
		return "none"
	case fs.info.Journal:
		return "journalled"
	}
	return "writeback"
}

// apply puts options into force.
func (fs *filesystem) apply(o *options) {
	fs.engine.SetDiscard(o.discard)
	fs.engine.SetErrors(o.errors)
	fs.engine.SetBarrier(!o.shown["nobarrier"])
	fs.engine.SetCommitEvery(o.commit)
	fs.engine.SetMaxDir(int64(o.number("max_dir_size_kb", 0)) << 10)
	fs.opts.Store(o)
}

// MountOptions implements vfs.FilesystemImpl. As in Linux, a mount stays rw when
// errors=remount-ro has struck, and an option tells.
func (fs *filesystem) MountOptions() string {
	s := fs.options().String(fs.defaults)
	if !fs.struck() {
		return s
	}
	return strings.TrimPrefix(s+",emergency_ro", ",")
}

// MountSource is what was mounted: "/dev/ubda". It is the device column of
// /proc/mounts.
func (fs *filesystem) MountSource() string { return fs.source }

// Remount implements mount(2) with MS_REMOUNT: it changes the filesystem, whatever
// mounts it has. What data does not name stays as it is.
func (fs *filesystem) Remount(ctx context.Context, readOnly bool, data string) error {
	old := fs.options()
	o, err := parseOptions(data, old)
	if err != nil {
		fs.typ.errorf("ext4: %v", err)
		return linuxerr.EINVAL
	}
	if flags, ok := mountFlags(ctx); ok {
		o.setFlags(flags)
	}
	o.ro = readOnly
	if !readOnly && fs.disk.ReadOnly {
		return linuxerr.EROFS
	}
	if !fs.freezer.writers.TryRLock() {
		return linuxerr.EBUSY
	}
	defer fs.freezer.writers.RUnlock()
	if o.noload != old.noload || old.ro && !readOnly && o.noload {
		fs.logError("can't change norecovery on remount")
		return linuxerr.EINVAL
	}
	if fs.info.Journal && o.dataMode() != old.dataMode() {
		fs.typ.errorf("EXT4-fs: Cannot change data mode on remount")
		return linuxerr.EINVAL
	}
	o.data = old.data // the same, or without a journal meaningless
	if readOnly != fs.readOnly.Load() && fs.engine.Damaged() {
		return linuxerr.EROFS
	}
	if readOnly != fs.readOnly.Load() {
		if readOnly {
			if fs.hasRemoved() {
				return linuxerr.EBUSY
			}
			if err := fs.flushPages(ctx); err != nil {
				return err
			}
		}
		if err := fs.engine.Remount(readOnly); err != nil {
			fs.logError("remount: %v", err)
			return errno(err)
		}
		fs.readOnly.Store(readOnly)
	}
	fs.apply(o)
	mode := "r/w"
	if readOnly {
		mode = "ro"
	}
	fs.log("re-mounted %s %s. Quota mode: %s.", uuidString(fs.info.UUID), mode, fs.quotaMode())
	return nil
}

// StatFS implements tree.Inode.
func (i *inode) StatFS(mnt *vfs.Mount) (linux.Statfs, error) {
	fs := i.fs
	s := fs.engine.Statfs()
	blocks := s.Blocks
	if fs.options().minixdf {
		blocks = fs.engine.Info().Blocks // it can have grown
	}
	flags := uint64(linux.ST_VALID)
	if mnt != nil {
		flags |= mnt.MountFlags()
	}
	if fs.readOnly.Load() {
		flags |= linux.ST_RDONLY
	}
	o := fs.options()
	if o.sync {
		flags |= linux.ST_SYNCHRONOUS
	}
	if !o.strictatime && flags&linux.ST_NOATIME == 0 {
		flags |= linux.ST_RELATIME
	}
	// As Linux makes it of the UUID: both halves, xored, low word first.
	id := binary.LittleEndian.Uint64(fs.info.UUID[:8]) ^ binary.LittleEndian.Uint64(fs.info.UUID[8:])
	return linux.Statfs{
		Type:            linux.EXT_SUPER_MAGIC,
		BlockSize:       s.BlockSize,
		FragmentSize:    s.BlockSize,
		Blocks:          blocks,
		BlocksFree:      s.Free,
		BlocksAvailable: s.Available,
		Files:           s.Files,
		FilesFree:       s.FilesFree,
		FSID:            [2]int32{int32(uint32(id)), int32(uint32(id >> 32))},
		NameLength:      linux.NAME_MAX,
		Flags:           flags,
	}, nil
}

// hasRemoved says whether a file is in use that has no name any more. Once it is let go
// the disk must be changed.
func (fs *filesystem) hasRemoved() bool {
	removed := false
	fs.Inodes(func(i *inode) bool {
		removed = removed || i.Links() == 0
		return false
	})
	return removed
}

// forget takes a closed filesystem from the table.
func (t *FilesystemType) forget(fs *filesystem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key := deviceKey(fs.disk.Major, fs.disk.Minor); t.open[key] == fs {
		delete(t.open, key)
	}
}

// CloseAll writes back and closes every open filesystem, so that each image is
// clean, and returns the errors it met. Afterwards all of them are read-only and
// without changes; their disks may be closed once the kernel is destroyed. The
// machine calls it when the guest's processes are gone. It is not an unmount:
// Disk.Release is not called for a filesystem that is still mounted.
func (t *FilesystemType) CloseAll(ctx context.Context) error {
	var errs []error
	t.each(ctx, func(fs *filesystem) {
		if err := fs.shutDown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close filesystem on %s: %w", fs.disk.Name, err))
		}
	})
	return errors.Join(errs...)
}

// AbandonAll is CloseAll for a machine that ends without syncing: what is not on the
// disks yet is lost, and who mounts them next replays their logs.
func (t *FilesystemType) AbandonAll(ctx context.Context) {
	t.each(ctx, func(fs *filesystem) {
		fs.cut.Store(true)
		fs.endFreeze()
		fs.stopFlushing()
		fs.readOnly.Store(true)
		fs.engine.Abandon()
	})
}

// each calls f for every open filesystem.
func (t *FilesystemType) each(ctx context.Context, f func(*filesystem)) {
	t.mu.Lock()
	var open []*filesystem
	for _, fs := range t.open {
		if fs.VFSFS.TryIncRef() {
			open = append(open, fs)
		}
	}
	t.mu.Unlock()
	for _, fs := range open {
		f(fs)
		fs.VFSFS.DecRef(ctx)
	}
}

// shutDown makes the image clean while the filesystem stays mounted.
func (fs *filesystem) shutDown(ctx context.Context) error {
	fs.endFreeze()
	fs.stopFlushing()
	if fs.writable() != nil {
		return nil
	}
	err := fs.flushPages(ctx)
	// Files that were removed while they were open go now, not at the next mount.
	fs.readOnly.Store(true)
	if rerr := fs.engine.Remount(true); rerr != nil {
		err = errors.Join(err, rerr)
	}
	return errors.Join(err, fs.disk.Device.Sync())
}

// maxHostRuns is how many runs of a file may be mapped one by one. The host limits
// the mappings of a process; a file gets an eighth of them.
func maxHostRuns() int64 {
	const usual = 65530
	b, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		return usual / 8
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < 8 {
		return usual / 8
	}
	return min(n, 1<<20) / 8
}

// uuidString is a UUID as people write it.
func uuidString(u [16]byte) string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
