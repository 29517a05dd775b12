// Package overlayfs is the guest's overlay filesystem: the Sentry's, with upper layers on
// ext4. The Sentry lets mount(2) have them on tmpfs and 9p alone, and knows few of the
// options; so the layers are found here and given to it as it takes them from inside.
package overlayfs

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Name is the filesystem type's name in mount(2).
const Name = overlay.Name

// uppers are the filesystems that an upper layer may be on: those that have trusted
// attributes and character devices 0:0, which whiteouts are.
var uppers = map[string]bool{"tmpfs": true, "ext2": true, "ext3": true, "ext4": true}

// FilesystemType implements vfs.FilesystemType.
type FilesystemType struct {
	overlay.FilesystemType

	// Logf writes a line to the guest's kernel log.
	Logf func(format string, a ...any)

	// Note is told of every overlay and its options as /proc/mounts has them: the
	// Sentry's own shows those of the upper layer. It may be nil.
	Note func(fs *vfs.Filesystem, options string)
}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (t *FilesystemType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	if opts.InternalData != nil {
		return t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	}
	o, err := parseOptions(opts.Data)
	if err != nil {
		t.Logf("overlayfs: %v", err)
		return nil, nil, linuxerr.EINVAL
	}
	f := newFinder(ctx, v, creds)
	defer f.release()
	layers, err := f.layers(o)
	if err != nil {
		t.Logf("overlayfs: %v", err)
		return nil, nil, f.errno
	}
	opts.InternalData, opts.Data = *layers, ""
	if o.userXattr {
		opts.Data = "userxattr"
	}
	fs, root, err := t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	if err == nil && t.Note != nil {
		t.Note(fs, o.String())
	}
	return fs, root, err
}

// finder resolves paths as the task that mounts sees them.
type finder struct {
	ctx         context.Context
	v           *vfs.VirtualFilesystem
	creds       *auth.Credentials
	root, start vfs.VirtualDentry
	held        []vfs.VirtualDentry // references to drop in the end
	errno       error               // what mount(2) answers
}

func newFinder(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials) *finder {
	f := &finder{ctx: ctx, v: v, creds: creds, root: vfs.RootFromContext(ctx)}
	f.start = f.root
	if t := kernel.TaskFromContext(ctx); t != nil {
		f.start = t.FSContext().WorkingDirectory()
		f.held = append(f.held, f.start)
	}
	if f.root.Ok() {
		f.held = append(f.held, f.root)
	}
	return f
}

func (f *finder) release() {
	for _, vd := range f.held {
		vd.DecRef(f.ctx)
	}
}

func (f *finder) fail(errno error, format string, a ...any) error {
	f.errno = errno
	return fmt.Errorf(format, a...)
}

// directory finds the directory that an option names.
func (f *finder) directory(option, path string) (vfs.VirtualDentry, error) {
	at := &vfs.PathOperation{Root: f.root, Start: f.start, Path: fspath.Parse(path), FollowFinalSymlink: true}
	if at.Path.Absolute {
		at.Start = at.Root
	}
	vd, err := f.v.GetDentryAt(f.ctx, f.creds, at, &vfs.GetDentryOptions{})
	if err != nil {
		return vd, f.fail(err, "%s: cannot resolve %q: %v", option, path, err)
	}
	f.held = append(f.held, vd)
	stat, err := f.v.StatAt(f.ctx, f.creds, &vfs.PathOperation{Root: vd, Start: vd}, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return vd, f.fail(err, "%s: stat %q: %v", option, path, err)
	}
	if stat.Mode&linux.S_IFMT != linux.S_IFDIR {
		return vd, f.fail(linuxerr.EINVAL, "%s: %q is not a directory", option, path)
	}
	return vd, nil
}

// private is the root of a mount of vd's own, into which nothing is mounted.
func (f *finder) private(vd vfs.VirtualDentry, readOnly bool) vfs.VirtualDentry {
	opts := vd.Mount().Options()
	opts.ReadOnly = opts.ReadOnly || readOnly
	m := f.v.NewDisconnectedMount(vd.Mount().Filesystem(), vd.Dentry(), &opts)
	vd.Dentry().IncRef()
	root := vfs.MakeVirtualDentry(m, vd.Dentry())
	f.held = append(f.held, root)
	return root
}

// layers finds the layers. The overlay takes references of its own.
func (f *finder) layers(o *options) (*overlay.FilesystemOptions, error) {
	layers := &overlay.FilesystemOptions{}
	if o.upper != "" {
		upper, err := f.upper(o)
		if err != nil {
			return nil, err
		}
		layers.UpperRoot = f.private(upper, false)
	}
	if len(o.lowers) == 0 {
		return nil, f.fail(linuxerr.EINVAL, "missing 'lowerdir'")
	}
	for _, path := range o.lowers {
		lower, err := f.directory("lowerdir", path)
		if err != nil {
			return nil, err
		}
		layers.LowerRoots = append(layers.LowerRoots, f.private(lower, true))
	}
	f.errno = linuxerr.EINVAL
	return layers, nil
}

// upper finds the upper layer and prepares its work directory. The Sentry's overlay has
// no use for that; but what Linux demands of it holds here too, so that a mount that
// works here works there, and it leaves there what users of overlays expect.
func (f *finder) upper(o *options) (upper vfs.VirtualDentry, err error) {
	if o.work == "" {
		return upper, f.fail(linuxerr.EINVAL, "missing 'workdir'")
	}
	if upper, err = f.directory("upperdir", o.upper); err != nil {
		return upper, err
	}
	work, err := f.directory("workdir", o.work)
	if err != nil {
		return upper, err
	}
	switch name := upper.Mount().Filesystem().FilesystemType().Name(); {
	case !uppers[name]:
		return upper, f.fail(linuxerr.EINVAL, "filesystem %s of %q is not supported as upperdir", name, o.upper)
	case upper.Mount().ReadOnly():
		return upper, f.fail(linuxerr.EINVAL, "upper filesystem of %q is read-only", o.upper)
	case upper.Mount() != work.Mount():
		return upper, f.fail(linuxerr.EINVAL, "workdir and upperdir must reside under the same mount")
	}
	u, err := f.v.PathnameInFilesystem(f.ctx, upper)
	if err != nil {
		return upper, f.fail(err, "upperdir: %v", err)
	}
	w, err := f.v.PathnameInFilesystem(f.ctx, work)
	if err != nil {
		return upper, f.fail(err, "workdir: %v", err)
	}
	if within(u, w) || within(w, u) {
		return upper, f.fail(linuxerr.EINVAL, "workdir and upperdir must be separate subtrees")
	}
	at := &vfs.PathOperation{Root: work, Start: work, Path: fspath.Parse("work")}
	if err := f.v.MkdirAt(f.ctx, f.creds, at, &vfs.MkdirOptions{}); err != nil && !linuxerr.Equals(linuxerr.EEXIST, err) {
		return upper, f.fail(err, "cannot make %q: %v", o.work+"/work", err)
	}
	return upper, nil
}
