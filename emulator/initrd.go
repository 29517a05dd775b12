package emulator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/emulator/initramfs"
	"github.com/umlkit/umlkit/emulator/klog"
)

// mountInitrd makes a tmpfs the root and unpacks the archive into it. Without the
// program that shall run there is no such root, and the log says why.
func (s *sentry) mountInitrd() *ending {
	name := s.m.config.Initrd
	f, err := os.Open(name)
	if err != nil {
		s.m.printk(klog.Err, "Couldn't open initrd %q: %v", name, err)
		return nil
	}
	defer f.Close()
	ctx := s.proc.NewContext(s.k)
	s.mounts, err = s.k.VFS().NewMountNamespace(ctx, s.proc.Credentials, "rootfs", tmpfs.Name,
		&vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			Data:          "mode=0755",
			InternalData:  tmpfs.FilesystemOpts{FilesystemType: rootfsType{}},
		}}, s.k)
	if err != nil {
		return panicked("VFS: Unable to make the first root: %v", err)
	}
	s.proc.MountNamespace = s.mounts
	s.m.printk(klog.Info, "Trying to unpack rootfs image as initramfs...")
	root := s.mounts.Root(ctx)
	defer root.DecRef(ctx)
	// Before there is a process nothing else says which namespace a replaced file is in.
	u := unpacker{ctx: vfs.WithMountNamespace(ctx, s.mounts), vfs: s.k.VFS(), creds: s.proc.Credentials, root: root}
	limits := initramfs.Limits{Bytes: s.m.config.Memory, Entries: s.m.config.Memory / bytesPerFile}
	err = initramfs.Read(endingReader{s, f}, limits, u.entry)
	if ended := s.wait(0); ended != nil {
		return ended
	}
	if err != nil {
		s.m.printk(klog.Err, "Initramfs unpacking failed: %s: %v", name, err)
	}
	if errno := s.mayRun(s.rdInit()); errno != 0 {
		s.m.printk(klog.Warning, "check access for rdinit=%s failed: %d, ignoring", s.rdInit(), -int(errno))
		s.mounts.DecRef(ctx)
		s.mounts, s.proc.MountNamespace = nil, nil
		return nil
	}
	s.inInitrd = true
	return nil
}

// endingReader reads until the kernel is to end.
type endingReader struct {
	s *sentry
	io.Reader
}

// Read implements io.Reader.
func (r endingReader) Read(b []byte) (int, error) {
	select {
	case <-r.s.m.terminated:
		return 0, errGone
	default:
	}
	if len(r.s.end) > 0 {
		return 0, errGone
	}
	return r.Reader.Read(b)
}

// bytesPerFile is how much of the guest's memory a file of the first root stands for,
// which bounds their number: an empty one takes memory of the machine, too.
const bytesPerFile = 1 << 10

// rdInit is the program of a first root.
func (s *sentry) rdInit() string {
	if s.m.config.RdInit != "" {
		return s.m.config.RdInit
	}
	return "/init"
}

// rootfsType is the type of the first root: a tmpfs of another name.
type rootfsType struct{ tmpfs.FilesystemType }

// Name implements vfs.FilesystemType.Name.
func (rootfsType) Name() string { return "rootfs" }

// unpacker makes the files of an archive below a root.
type unpacker struct {
	ctx   context.Context
	vfs   *vfs.VirtualFilesystem
	creds *auth.Credentials
	root  vfs.VirtualDentry
	buf   [64 << 10]byte
}

func (u *unpacker) at(name string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: u.root, Start: u.root, Path: fspath.Parse(name)}
}

// entry makes one file. A file that is there is replaced, a directory is kept.
func (u *unpacker) entry(e initramfs.Entry, content io.Reader) error {
	if e.Name != "." {
		if err := u.make(e, content); err != nil {
			return err
		}
	}
	if e.Target != "" && e.Size == 0 {
		return nil
	}
	return u.vfs.SetStatAt(u.ctx, u.creds, u.at(e.Name), &vfs.SetStatOptions{Stat: u.attributes(e)})
}

func (u *unpacker) attributes(e initramfs.Entry) linux.Statx {
	when := linux.StatxTimestamp{Sec: int64(e.Mtime)}
	st := linux.Statx{
		Mask: linux.STATX_UID | linux.STATX_GID | linux.STATX_MTIME | linux.STATX_ATIME,
		UID:  e.UID, GID: e.GID, Mtime: when, Atime: when,
	}
	if e.Mode&linux.S_IFMT != linux.S_IFLNK {
		st.Mask |= linux.STATX_MODE
		st.Mode = uint16(e.Mode & 0o7777)
	}
	return st
}

func (u *unpacker) make(e initramfs.Entry, content io.Reader) error {
	kind := linux.FileMode(e.Mode) & linux.S_IFMT
	perm := linux.FileMode(e.Mode) & 0o7777
	if parent := path.Dir(e.Name); parent != "." {
		if err := u.vfs.MkdirAllAt(u.ctx, parent, u.root, u.creds, &vfs.MkdirOptions{Mode: 0o755}, true); err != nil {
			return err
		}
	}
	if kind == linux.S_IFDIR {
		err := u.vfs.MkdirAt(u.ctx, u.creds, u.at(e.Name), &vfs.MkdirOptions{Mode: perm})
		if linuxerr.Equals(linuxerr.EEXIST, err) {
			return nil
		}
		return err
	}
	if e.Target != "" {
		if e.Size != 0 {
			return u.write(e.Name, e.Target, perm, content)
		}
		u.remove(e.Name)
		return u.vfs.LinkAt(u.ctx, u.creds, u.at(e.Target), u.at(e.Name))
	}
	u.remove(e.Name)
	switch kind {
	case linux.S_IFREG:
		return u.write(e.Name, "", perm, content)
	case linux.S_IFLNK:
		if e.Size > linux.PATH_MAX {
			return fmt.Errorf("symbolic link of %d bytes", e.Size)
		}
		target, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return u.vfs.SymlinkAt(u.ctx, u.creds, u.at(e.Name), string(target))
	case linux.S_IFCHR, linux.S_IFBLK, linux.S_IFIFO, linux.S_IFSOCK:
		return u.vfs.MknodAt(u.ctx, u.creds, u.at(e.Name), &vfs.MknodOptions{
			Mode: kind | perm, DevMajor: e.RdevMajor, DevMinor: e.RdevMinor,
		})
	}
	return fmt.Errorf("mode %o is of no known type", e.Mode)
}

func (u *unpacker) remove(name string) {
	_ = u.vfs.UnlinkAt(u.ctx, u.creds, u.at(name))
}

// write fills a file; as a link to target if that is not empty.
func (u *unpacker) write(name, target string, perm linux.FileMode, content io.Reader) error {
	if target != "" {
		u.remove(name)
		if err := u.vfs.LinkAt(u.ctx, u.creds, u.at(target), u.at(name)); err != nil {
			return err
		}
	}
	file, err := u.vfs.OpenAt(u.ctx, u.creds, u.at(name), &vfs.OpenOptions{
		Flags: linux.O_WRONLY | linux.O_CREAT | linux.O_TRUNC, Mode: perm | linux.S_IFREG,
	})
	if err != nil {
		return err
	}
	defer file.DecRef(u.ctx)
	for {
		n, err := content.Read(u.buf[:])
		for b := u.buf[:n]; len(b) > 0; {
			w, err := file.Write(u.ctx, usermem.BytesIOSequence(b), vfs.WriteOptions{})
			if err != nil {
				return err
			}
			b = b[w:]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
