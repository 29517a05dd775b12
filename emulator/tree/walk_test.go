package tree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// BenchmarkWalk looks up and opens a file eight directories down, on both filesystems.
func BenchmarkWalk(b *testing.B) {
	dirs := strings.Split("a/bb/ccc/dddd/eeeee/ffffff/ggggggg/hhhhhhhh", "/")
	s := sentrytest.New(b)
	export, err := hostfs.OpenExport(b.TempDir(), false)
	if err != nil {
		b.Fatal(err)
	}
	defer export.Close()
	image := filepath.Join(b.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, oracle.Tool(b, "mke2fs"), "-q", "-t", "ext4", image, "8M")
	raw, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, fs := range []struct {
		name string
		typ  vfs.FilesystemType
		data any
	}{
		{"hostfs", hostfs.New(export), export},
		{"ext4fs", &ext4fs.FilesystemType{}, ext4fs.Disk{Device: raw, Name: "ubda", Major: 98}},
	} {
		s.VFS.MustRegisterFilesystemType(fs.name, fs.typ, &vfs.RegisterFilesystemTypeOptions{})
		creds := auth.CredentialsFromContext(s.Context)
		mnt, err := s.VFS.MountDisconnected(s.Context, creds, "", fs.name, &vfs.MountOptions{
			GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, InternalData: fs.data},
		})
		if err != nil {
			b.Fatal(err)
		}
		root := vfs.MakeVirtualDentry(mnt, mnt.Root())
		at := func(path string) *vfs.PathOperation {
			return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(path)}
		}
		for i := range dirs {
			if err := s.VFS.MkdirAt(s.Context, creds, at(strings.Join(dirs[:i+1], "/")), &vfs.MkdirOptions{Mode: 0o755}); err != nil {
				b.Fatal(err)
			}
		}
		file := at(strings.Join(dirs, "/") + "/file")
		open := func(flags uint32) {
			fd, err := s.VFS.OpenAt(s.Context, creds, file, &vfs.OpenOptions{Flags: flags, Mode: 0o644})
			if err != nil {
				b.Fatal(err)
			}
			fd.DecRef(s.Context)
		}
		open(linux.O_CREAT)
		b.Run(fs.name+"/stat", func(b *testing.B) {
			for b.Loop() {
				if _, err := s.VFS.StatAt(s.Context, creds, file, &vfs.StatOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fs.name+"/open", func(b *testing.B) {
			for b.Loop() {
				open(linux.O_RDONLY)
			}
		})
		mnt.DecRef(s.Context)
	}
}
