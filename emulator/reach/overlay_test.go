package reach

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
)

// TestOverlayFile fails when an upgrade of gVisor changes what OverlayFile reaches into.
func TestOverlayFile(t *testing.T) {
	s := sentrytest.New(t)
	creds := auth.CredentialsFromContext(s.Context)
	mount := func(fsType vfs.FilesystemType, data any) vfs.VirtualDentry {
		fs, root, err := fsType.GetFilesystem(s.Context, s.VFS, creds, "", vfs.GetFilesystemOptions{InternalData: data, InternalMount: true})
		if err != nil {
			t.Fatal(err)
		}
		return vfs.MakeVirtualDentry(s.VFS.NewDisconnectedMount(fs, root, &vfs.MountOptions{}), root)
	}
	upper, lower := mount(tmpfs.FilesystemType{}, nil), mount(tmpfs.FilesystemType{}, nil)
	root := mount(overlay.FilesystemType{}, overlay.FilesystemOptions{UpperRoot: upper, LowerRoots: []vfs.VirtualDentry{lower}})
	open := func(at vfs.VirtualDentry, flags uint32) *vfs.FileDescription {
		fd, err := s.VFS.OpenAt(s.Context, creds, &vfs.PathOperation{Root: at, Start: at, Path: fspath.Parse("file")}, &vfs.OpenOptions{Flags: flags, Mode: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	fd := open(root, linux.O_CREAT|linux.O_RDWR)
	defer fd.DecRef(s.Context)
	inner, err := OverlayFile(s.Context, fd)
	if err != nil || inner == nil {
		t.Fatalf("the file of the layer is %v, %v", inner, err)
	}
	defer inner.DecRef(s.Context)
	if got := inner.Mount().Filesystem(); got != upper.Mount().Filesystem() {
		t.Errorf("the file is on %s", got.FilesystemType().Name())
	}
	if again, err := OverlayFile(s.Context, inner); again != nil || err != nil {
		t.Errorf("a file of tmpfs stands for %v, %v", again, err)
	}
}
