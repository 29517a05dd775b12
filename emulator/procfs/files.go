package procfs

import (
	"bytes"
	"fmt"

	"sort"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/emulator/klog"
)

// fill adds and replaces the files of the options below root.
func (p *procfs) fill(ctx context.Context, root kernfs.Inode) error {
	creds := auth.NewRootCredentials(kernel.KernelFromContext(ctx).RootUserNamespace())
	paths := make([]string, 0, len(p.options.Files))
	for path := range p.options.Files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		if err := p.add(ctx, creds, root, path, p.options.Files[path]); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if p.options.Log != nil {
		dir, ok := root.(childful)
		if !ok {
			return fmt.Errorf("%T has no children", root)
		}
		f := &kmsgFile{log: p.options.Log}
		f.Init(ctx, creds, linux.UNNAMED_MAJOR, p.devMinor, p.fs.NextIno(), linux.ModeRegular|0o400)
		if err := dir.Insert("kmsg", f); err != nil {
			return fmt.Errorf("kmsg: %w", err)
		}
	}
	return nil
}

// add makes or takes over one file.
func (p *procfs) add(ctx context.Context, creds *auth.Credentials, dir kernfs.Inode, path string, f File) error {
	name, rest, deeper := strings.Cut(path, "/")
	parent, ok := dir.(childful)
	if !ok {
		return fmt.Errorf("%T has no children", dir)
	}
	var child kernfs.Inode
	parent.ForEachChild(func(n string, i kernfs.Inode) {
		if n == name {
			child = i
		}
	})
	if deeper {
		if child == nil {
			child = kernfs.NewStaticDir(ctx, creds, linux.UNNAMED_MAJOR, p.devMinor, p.fs.NextIno(), 0o555, nil,
				kernfs.GenericDirectoryFDOptions{SeekEnd: kernfs.SeekEndZero})
			if err := parent.Insert(name, child); err != nil {
				return err
			}
		}
		return p.add(ctx, creds, child, rest, f)
	}
	if f.Link != "" {
		return parent.Insert(name, kernfs.NewStaticSymlink(ctx, creds, linux.UNNAMED_MAJOR, p.devMinor, p.fs.NextIno(), f.Link))
	}
	source := f.source()
	if child != nil {
		return setSource(child, source)
	}
	perm := f.Perm
	if perm == 0 {
		perm = 0o444
		if f.Write != nil {
			perm = 0o644
		}
	}
	return parent.Insert(name, p.newFile(ctx, creds, source, perm))
}

func (p *procfs) newFile(ctx context.Context, creds *auth.Credentials, source vfs.DynamicBytesSource, perm linux.FileMode) kernfs.Inode {
	f := new(file)
	f.Init(ctx, creds, linux.UNNAMED_MAJOR, p.devMinor, p.fs.NextIno(), source, perm)
	return f
}

// file is a file with a source. Its attributes can be changed, as those of Linux's
// can.
type file struct {
	kernfs.DynamicBytesFile
}

// SetStat implements kernfs.Inode.SetStat.
func (f *file) SetStat(ctx context.Context, fs *vfs.Filesystem, creds *auth.Credentials, opts vfs.SetStatOptions) error {
	if opts.Stat.Mask&linux.STATX_SIZE != 0 {
		// open(O_TRUNC) before a write.
		opts.Stat.Mask &^= linux.STATX_SIZE
	}
	return f.InodeAttrs.SetStat(ctx, fs, creds, opts)
}

func (f File) source() vfs.DynamicBytesSource {
	if f.Poller != nil {
		return polledSource{readSource(f.Read), f.Poller}
	}
	if f.Write != nil {
		return writableSource{readSource(f.Read), f.Write, f.Exact}
	}
	return readSource(f.Read)
}

// readSource implements vfs.DynamicBytesSource.
type readSource Source

// Generate implements vfs.DynamicBytesSource.Generate.
func (s readSource) Generate(ctx context.Context, buf *bytes.Buffer) error {
	if s == nil {
		return nil
	}
	return s(ctx, buf)
}

// polledSource implements vfs.PollableDynamicBytesSource.
type polledSource struct {
	readSource
	poller *vfs.DynamicBytesPoller
}

// GetDynamicBytesPoller implements vfs.PollableDynamicBytesSource.
func (s polledSource) GetDynamicBytesPoller(context.Context) *vfs.DynamicBytesPoller { return s.poller }

// writableSource implements vfs.WritableDynamicBytesSource.
type writableSource struct {
	readSource
	write func(context.Context, string) error
	exact bool
}

// Write implements vfs.WritableDynamicBytesSource.Write.
func (s writableSource) Write(ctx context.Context, _ *vfs.FileDescription, src usermem.IOSequence, _ int64) (int64, error) {
	size := src.NumBytes()
	if size == 0 {
		return 0, nil
	}
	if size > hostarch.PageSize {
		return 0, linuxerr.EINVAL
	}
	text := make([]byte, size)
	n, err := src.CopyIn(ctx, text)
	if err != nil {
		return int64(n), err
	}
	if !s.exact {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	if err := s.write(ctx, string(text)); err != nil {
		return 0, err
	}
	return int64(n), nil
}

// kmsgFile is /proc/kmsg, which is no text: reading takes records away and waits.
type kmsgFile struct {
	kernfs.InodeAttrs
	kernfs.InodeNoStatFS
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotDirectory
	kernfs.InodeNotSymlink
	kernfs.InodeWatches
	kernfs.InodeFSOwned
	log *klog.Log
}

// Open implements kernfs.Inode.Open.
func (f *kmsgFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	return f.log.OpenProc(ctx, rp.Mount(), d.VFSDentry(), opts)
}

// SetStat implements kernfs.Inode.SetStat.
func (*kmsgFile) SetStat(context.Context, *vfs.Filesystem, *auth.Credentials, vfs.SetStatOptions) error {
	return linuxerr.EPERM
}
