// Package reach is the one place that touches what gVisor keeps to itself, through the
// linkname directive and package reflect. Each trick says what it needs of gVisor's
// inside; the tests fail when an upgrade takes that away.
package reach

import (
	"fmt"
	"reflect"
	_ "unsafe" // go:linkname

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Release is the kernel release that gVisor gives in the files it makes itself
// (/proc/sys/kernel/osrelease). Nothing exported sets it to a name of ours.
//
//go:linkname Release gvisor.dev/gvisor/pkg/sentry/kernel/version.release
var Release string

// Mounts are the mounts at and below root's, in no order, each with a reference that
// the caller drops. vfs lists mounts only as the text of /proc/PID/mounts, which lacks
// what they are mounts of.
func Mounts(ctx context.Context, v *vfs.VirtualFilesystem, root vfs.VirtualDentry) []*vfs.Mount {
	lockMounts(v)
	mounts := submountsLocked(root.Mount())
	for _, m := range mounts {
		m.IncRef()
	}
	unlockMounts(v, ctx)
	return mounts
}

//go:linkname lockMounts gvisor.dev/gvisor/pkg/sentry/vfs.(*VirtualFilesystem).lockMounts
func lockMounts(v *vfs.VirtualFilesystem)

//go:linkname unlockMounts gvisor.dev/gvisor/pkg/sentry/vfs.(*VirtualFilesystem).unlockMounts
func unlockMounts(v *vfs.VirtualFilesystem, ctx context.Context)

//go:linkname submountsLocked gvisor.dev/gvisor/pkg/sentry/vfs.(*Mount).submountsLocked
func submountsLocked(m *vfs.Mount) []*vfs.Mount

// Kernfs is the part of a filesystem that its type embeds from kernfs. Filesystems
// built on kernfs embed it as a field of that name, by value; a new root can only be
// given to that part.
func Kernfs(fs *vfs.Filesystem) (*kernfs.Filesystem, error) {
	v := reflect.ValueOf(fs.Impl())
	if v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		if field := v.Elem().FieldByName("Filesystem"); field.IsValid() && field.CanAddr() && field.CanInterface() {
			if k, ok := field.Addr().Interface().(*kernfs.Filesystem); ok {
				return k, nil
			}
		}
	}
	return nil, fmt.Errorf("%T does not embed kernfs.Filesystem", fs.Impl())
}

// Wrapped is the inode inside another that embeds it as kernfs.Inode, as proc does
// with those that belong to a task.
func Wrapped(outer kernfs.Inode) (kernfs.Inode, error) {
	field, err := wrapped(outer)
	if err != nil {
		return nil, err
	}
	inner, ok := field.Interface().(kernfs.Inode)
	if !ok {
		return nil, fmt.Errorf("%T has no inode in its field Inode", outer)
	}
	return inner, nil
}

// SetWrapped replaces the inode inside another. The other must not be in use yet.
func SetWrapped(outer, inner kernfs.Inode) error {
	field, err := wrapped(outer)
	if err != nil {
		return err
	}
	field.Set(reflect.ValueOf(inner))
	return nil
}

var inodeType = reflect.TypeFor[kernfs.Inode]()

func wrapped(outer kernfs.Inode) (reflect.Value, error) {
	v := reflect.ValueOf(outer)
	if v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		if field := v.Elem().FieldByName("Inode"); field.IsValid() && field.Type() == inodeType && field.CanSet() {
			return field, nil
		}
	}
	return reflect.Value{}, fmt.Errorf("%T does not embed kernfs.Inode", outer)
}

// NewPTY is the number of the pty whose master a file description is. The Sentry tells it
// to the task alone that has the descriptor.
func NewPTY(fd *vfs.FileDescription) (n uint64, ok bool) {
	v := reflect.ValueOf(fd.Impl())
	if v.Type().String() != "*devpts.masterFileDescription" {
		return 0, false
	}
	return v.Elem().FieldByName("t").Elem().FieldByName("n").Uint(), true
}
