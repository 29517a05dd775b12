package reach

import (
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// OverlayFile is the file of a layer that an open regular file of an overlay stands for
// now, with a reference that the caller drops; nil when fd is no such file. Overlays
// pass on what vfs knows of files, and no more.
func OverlayFile(ctx context.Context, fd *vfs.FileDescription) (*vfs.FileDescription, error) {
	v := reflect.ValueOf(fd.Impl())
	if v.Kind() != reflect.Pointer || v.Type().String() != overlayFileType {
		return nil, nil
	}
	return overlayCurrentFD(v.UnsafePointer(), ctx)
}

const overlayFileType = "*overlay.regularFileFD"

//go:linkname overlayCurrentFD gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay.(*regularFileFD).getCurrentFD
func overlayCurrentFD(fd unsafe.Pointer, ctx context.Context) (*vfs.FileDescription, error)
