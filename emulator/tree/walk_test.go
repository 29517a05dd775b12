package tree_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/ext4fs"
	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// mounted is a filesystem that is the root of a mount namespace.
type mounted struct {
	context.Context
	t     testing.TB
	vfs   *vfs.VirtualFilesystem
	creds *auth.Credentials
	mntns *vfs.MountNamespace
	root  vfs.VirtualDentry
	where string // the directory or the image on the host
}

// Value implements context.Context.
func (m *mounted) Value(key any) any {
	switch {
	case key == vfs.CtxMountNamespace && m.mntns != nil:
		m.mntns.IncRef()
		return m.mntns
	case key == uniqueid.CtxInotifyCookie:
		return uint32(1)
	}
	return m.Context.Value(key)
}

func mount(t testing.TB, name string) *mounted {
	t.Helper()
	s := sentrytest.New(t)
	m := &mounted{Context: s.Context, t: t, vfs: s.VFS, creds: auth.CredentialsFromContext(s.Context)}
	// To e2fsck a file that was removed in 1970 is one of the orphan list.
	m.Value(ktime.CtxRealtimeClock).(*ktime.SyntheticClock).Store(ktime.FromUnix(1e9, 0))
	opts := vfs.GetFilesystemOptions{InternalMount: true}
	var typ vfs.FilesystemType
	switch name {
	case "hostfs":
		m.where = t.TempDir()
		export, err := hostfs.OpenExport(m.where, false)
		check(t, err)
		t.Cleanup(export.Close)
		typ = hostfs.New(export)
	case "ext4fs":
		m.where = filepath.Join(t.TempDir(), "image")
		check(t, os.WriteFile(m.where, nil, 0o600))
		oracle.Run(t, oracle.Tool(t, "mke2fs"), "-q", "-t", "ext4", m.where, "8M")
		raw, err := ubdfmt.OpenRaw(m.where, ubdfmt.Options{})
		check(t, err)
		typ, opts.InternalData = &ext4fs.FilesystemType{}, ext4fs.Disk{Device: raw, Name: "ubda", Major: 98}
	}
	s.VFS.MustRegisterFilesystemType(name, typ, &vfs.RegisterFilesystemTypeOptions{})
	mntns, err := s.VFS.NewMountNamespace(m, m.creds, "", name, &vfs.MountOptions{GetFilesystemOptions: opts}, nil)
	check(t, err)
	m.mntns, m.root = mntns, mntns.Root(m)
	return m
}

// unmount ends the filesystem.
func (m *mounted) unmount() {
	m.root.DecRef(m)
	m.mntns.DecRef(m.Context)
	m.mntns = nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *mounted) at(path string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: m.root, Start: m.root, Path: fspath.Parse(path)}
}

func (m *mounted) open(path string, flags uint32) error { return m.openAt(m.at(path), flags) }

func (m *mounted) openAt(at *vfs.PathOperation, flags uint32) error {
	fd, err := m.vfs.OpenAt(m, m.creds, at, &vfs.OpenOptions{Flags: flags, Mode: 0o644})
	if err == nil {
		fd.DecRef(m)
	}
	return err
}

// change does one thing that guests do to names, at random.
func (m *mounted) change(r *rand.Rand) error {
	name := func() string { return fmt.Sprintf("d%d/n%d", r.IntN(3), r.IntN(4)) }
	deep := func() string { return name() + fmt.Sprintf("/n%d", r.IntN(2)) }
	one, other := name(), name()
	if r.IntN(3) == 0 {
		other = deep()
	}
	switch r.IntN(9) {
	case 0:
		return m.vfs.MkdirAt(m, m.creds, m.at(other), &vfs.MkdirOptions{Mode: 0o755})
	case 1:
		return m.open(other, linux.O_CREAT|linux.O_RDWR)
	case 2:
		return m.vfs.LinkAt(m, m.creds, m.at(one), m.at(other))
	case 3:
		return m.vfs.SymlinkAt(m, m.creds, m.at(other), "n1")
	case 4:
		return m.vfs.UnlinkAt(m, m.creds, m.at(one))
	case 5:
		return m.vfs.RmdirAt(m, m.creds, m.at(one))
	case 6:
		flags := []uint32{0, 0, linux.RENAME_NOREPLACE, linux.RENAME_EXCHANGE}[r.IntN(4)]
		return m.vfs.RenameAt(m, m.creds, m.at(one), m.at(other), &vfs.RenameOptions{Flags: flags})
	case 7:
		return m.open(one, linux.O_RDONLY|linux.O_CREAT|linux.O_EXCL)
	default:
		_, err := m.vfs.StatAt(m, m.creds, m.at(deep()), &vfs.StatOptions{Mask: linux.STATX_ALL})
		return err
	}
}

// names lists the tree by lookups of every name that change makes, with the inode numbers.
func (m *mounted) names() []string {
	var found []string
	var walk func(dir string)
	walk = func(dir string) {
		for i := range 4 {
			path := fmt.Sprintf("%s/n%d", dir, i)
			st, err := m.vfs.StatAt(m, m.creds, m.at(path), &vfs.StatOptions{Mask: linux.STATX_ALL})
			if err != nil {
				continue
			}
			found = append(found, fmt.Sprintf("%s %d", path, st.Ino))
			if st.Mode&linux.S_IFMT == linux.S_IFDIR {
				walk(path)
			}
		}
	}
	for i := range 3 {
		walk(fmt.Sprintf("d%d", i))
	}
	return found
}

// TestCrowd has many change the same few names at once. What the tree then says is what
// lies below it, and nothing is left of it in the end.
func TestCrowd(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	for _, name := range []string{"hostfs", "ext4fs"} {
		t.Run(name, func(t *testing.T) {
			m := mount(t, name)
			for i := range 3 {
				check(t, m.vfs.MkdirAt(m, m.creds, m.at(fmt.Sprintf("d%d", i)), &vfs.MkdirOptions{Mode: 0o755}))
			}
			var all sync.WaitGroup
			for n := range 4 {
				all.Add(1)
				go func() {
					defer all.Done()
					r := rand.New(rand.NewPCG(seed, uint64(n)))
					for range 1500 {
						err := m.change(r)
						var expected *gverrors.Error
						if err != nil && !errors.As(err, &expected) {
							t.Errorf("not an error of Linux: %v", err)
							return
						}
					}
				}()
			}
			all.Wait()
			_ = m.open("d0/n0", linux.O_CREAT) // so that there is something at least
			got := m.names()
			if len(got) == 0 {
				t.Error("nothing is there")
			}
			m.unmount()
			again := m.below()
			if strings.Join(got, "\n") != strings.Join(again, "\n") {
				t.Errorf("the guest saw\n%s\nand there lies\n%s", strings.Join(got, "\n"), strings.Join(again, "\n"))
			}
		})
	}
}

// below lists what names does, as the host sees it once nothing is mounted.
func (m *mounted) below() []string {
	m.t.Helper()
	dir := m.where
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		oracle.Fsck(m.t, m.where)
		dir = oracle.Mount(m.t, m.where, "ro")
		defer oracle.Unmount(m.t, dir)
	}
	var found []string
	check(m.t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err == nil && strings.Contains(rel, "/") {
			found = append(found, fmt.Sprintf("%s %d", rel, info.Sys().(*syscall.Stat_t).Ino))
		}
		return err
	}))
	return found
}

// BenchmarkWalk looks up and opens a file eight directories down.
func BenchmarkWalk(b *testing.B) {
	dirs := strings.Split("a/bb/ccc/dddd/eeeee/ffffff/ggggggg/hhhhhhhh", "/")
	for _, name := range []string{"hostfs", "ext4fs"} {
		m := mount(b, name)
		for i := range dirs {
			check(b, m.vfs.MkdirAt(m, m.creds, m.at(strings.Join(dirs[:i+1], "/")), &vfs.MkdirOptions{Mode: 0o755}))
		}
		file := m.at(strings.Join(dirs, "/") + "/file")
		check(b, m.openAt(file, linux.O_CREAT))
		b.Run(name+"/stat", func(b *testing.B) {
			for b.Loop() {
				_, err := m.vfs.StatAt(m, m.creds, file, &vfs.StatOptions{})
				check(b, err)
			}
		})
		b.Run(name+"/open", func(b *testing.B) {
			for b.Loop() {
				check(b, m.openAt(file, linux.O_RDONLY))
			}
		})
		m.unmount()
	}
}
