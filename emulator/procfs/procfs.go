// Package procfs is the Sentry's /proc with the files a guest of ours expects: those
// that name the kernel, its command line and processor, mounts with their sources,
// terminals of processes, block devices and the kernel log.
//
// The Sentry's own files stay where they are; where their contents are not ours, the
// source of the contents is exchanged.
package procfs

import (
	"bytes"
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/reach"
)

// Source writes the contents of a file.
type Source func(ctx context.Context, buf *bytes.Buffer) error

// Text is the source of a file that never changes.
func Text(s string) Source {
	return func(_ context.Context, buf *bytes.Buffer) error {
		buf.WriteString(s)
		return nil
	}
}

// File is a file below /proc that is added, or whose contents are replaced.
type File struct {
	Read Source
	// Write takes what is written, at most a page of it, without its last newline unless
	// Exact is set. Nil: the file cannot be written.
	Write func(ctx context.Context, text string) error
	Exact bool
	// Poller, when not nil, tells of changes: the file can be polled.
	Poller *vfs.DynamicBytesPoller
	// Perm are the permissions of an added file; 0 is 0444, or 0644 with Write.
	Perm linux.FileMode
	// Link, when not empty, makes it a symbolic link to there, and nothing else.
	Link string
}

// Options say what the kernel at hand puts into /proc.
type Options struct {
	// Files are by path below /proc ("sys/kernel/printk"); directories that are not
	// there are made.
	Files map[string]File
	// Log is what /proc/kmsg reads.
	Log *klog.Log
	// Sources knows where mounts come from.
	Sources  *Sources
	Terminal Terminal
}

// Terminal is what /proc/PID/stat shows of a task's controlling terminal: its device
// number and the process group in its foreground, 0 and -1 without one.
type Terminal func(*kernel.Task) (number, foreground int32)

// FilesystemType is the type "proc".
type FilesystemType struct {
	proc.FilesystemType
	Options Options
}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (t *FilesystemType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	// Options of procfs that the Sentry does not take change who sees what.
	opts.Data = ""
	fs, d, err := t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	if err != nil {
		return nil, nil, err
	}
	p := &procfs{options: &t.Options}
	root, err := p.adopt(ctx, fs, d)
	if err != nil {
		d.DecRef(ctx)
		fs.DecRef(ctx)
		return nil, nil, err
	}
	return fs, root, nil
}

// procfs is one instance.
type procfs struct {
	options  *Options
	fs       *kernfs.Filesystem
	devMinor uint32
}

// adopt puts a root inode of ours before the Sentry's, and fills it.
func (p *procfs) adopt(ctx context.Context, fs *vfs.Filesystem, d *vfs.Dentry) (*vfs.Dentry, error) {
	k, err := reach.Kernfs(fs)
	if err != nil {
		return nil, fmt.Errorf("/proc: %w", err)
	}
	p.fs = k
	old, ok := d.Impl().(*kernfs.Dentry)
	if !ok {
		return nil, fmt.Errorf("/proc: the root is a %T", d.Impl())
	}
	inner := old.Inode()
	st, err := inner.Stat(ctx, fs, vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	if err != nil {
		return nil, fmt.Errorf("/proc: %w", err)
	}
	p.devMinor = st.DevMinor
	if err := p.fill(ctx, inner); err != nil {
		return nil, fmt.Errorf("/proc: %w", err)
	}
	// The old dentry keeps its reference on the inode, which is for the new one.
	root := new(kernfs.Dentry)
	root.InitRoot(k, &rootInode{Inode: inner, procfs: p})
	return root.VFSDentry(), nil
}

// rootInode is the directory /proc itself.
type rootInode struct {
	kernfs.Inode
	procfs *procfs
}

// Lookup implements kernfs.Inode.Lookup. The directory of a task is new whenever it is
// looked up and not cached.
func (i *rootInode) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	inode, err := i.Inode.Lookup(ctx, name)
	if err == nil && name[0] >= '0' && name[0] <= '9' {
		i.procfs.adoptTask(ctx, inode)
	}
	return inode, err
}

// threadsInode is a directory /proc/PID/task.
type threadsInode struct {
	kernfs.Inode
	procfs *procfs
}

// Lookup implements kernfs.Inode.Lookup.
func (i *threadsInode) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	inode, err := i.Inode.Lookup(ctx, name)
	if err == nil {
		i.procfs.adoptTask(ctx, inode)
	}
	return inode, err
}

// adoptTask exchanges the sources of files in the directory of a task.
func (p *procfs) adoptTask(ctx context.Context, dir kernfs.Inode) {
	if err := p.adoptTaskFiles(ctx, dir); err != nil {
		log.Warningf("/proc/PID: %v", err)
	}
}

func (p *procfs) adoptTaskFiles(ctx context.Context, dir kernfs.Inode) error {
	owned, ok := dir.(interface{ TaskFromProcPIDInode() *kernel.Task })
	if !ok {
		return fmt.Errorf("%T names no task", dir)
	}
	task := owned.TaskFromProcPIDInode()
	inner, err := reach.Wrapped(dir)
	if err != nil {
		return err
	}
	if task == nil {
		return fmt.Errorf("%T names no task", dir)
	}
	children, ok := inner.(childful)
	if !ok {
		return fmt.Errorf("%T has no children", inner)
	}
	var failed error
	children.ForEachChild(func(name string, child kernfs.Inode) {
		file, err := reach.Wrapped(child)
		if err != nil {
			return
		}
		switch name {
		case "mounts":
			err = setSource(file, &mountsSource{p.options.Sources, task, writeMounts})
		case "mountinfo":
			err = setSource(file, &mountsSource{p.options.Sources, task, writeMountInfo})
		case "stat":
			old, ok := file.(vfs.DynamicBytesSource)
			if !ok {
				err = fmt.Errorf("%T has no contents", file)
				break
			}
			err = setSource(file, &statSource{old, task, p.options.Terminal})
		case "task":
			err = reach.SetWrapped(child, &threadsInode{Inode: file, procfs: p})
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w", name, err)
		}
	})
	if failed != nil {
		return failed
	}
	return children.Insert("mountstats", p.newFile(ctx, task.Credentials(), &mountsSource{p.options.Sources, task, writeMountStats}, 0o400))
}

// childful is a kernfs directory with children of its own.
type childful interface {
	kernfs.Inode
	ForEachChild(func(string, kernfs.Inode))
	Insert(name string, child kernfs.Inode) error
}

// setSource exchanges what an existing file reads from.
func setSource(file kernfs.Inode, source vfs.DynamicBytesSource) error {
	f, ok := file.(interface {
		SetDataSourceProvider(kernfs.DataSourceProvider)
	})
	if !ok {
		return fmt.Errorf("%T has no exchangeable contents", file)
	}
	f.SetDataSourceProvider(provider{source})
	return nil
}

// provider implements kernfs.DataSourceProvider.
type provider struct{ source vfs.DynamicBytesSource }

// DataSource implements kernfs.DataSourceProvider.DataSource.
func (p provider) DataSource(context.Context) (vfs.DynamicBytesSource, error) { return p.source, nil }
