package hostfs

import (
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// checkXattr checks that creds may use the attribute so on i. There are those of users
// alone: the others mean something to the host.
func (i *inode) checkXattr(creds *auth.Credentials, ats vfs.AccessTypes, name string) error {
	rest, ok := strings.CutPrefix(name, linux.XATTR_USER_PREFIX)
	switch {
	case !ok:
		return linuxerr.EOPNOTSUPP
	case rest == "":
		return linuxerr.EINVAL
	case strings.HasPrefix(name, hiddenXattr) && ats.MayWrite():
		return linuxerr.EPERM
	case strings.HasPrefix(name, hiddenXattr):
		return linuxerr.ENODATA
	}
	a, err := i.attr()
	if err != nil {
		return err
	}
	if err := vfs.CheckXattrPermissions(creds, ats, linux.FileMode(a.mode), auth.KUID(a.uid), name); err != nil {
		return err
	}
	return vfs.GenericCheckPermissions(creds, ats, linux.FileMode(a.mode), nil, auth.KUID(a.uid), auth.KGID(a.gid))
}

// hasXattrs says whether the host lets users give the file attributes.
func (i *inode) hasXattrs() bool {
	return i.Kind == i.hostKind && (i.Kind == linux.S_IFREG || i.Kind == linux.S_IFDIR)
}

// ListXattr implements tree.Inode.
func (i *inode) ListXattr(*auth.Credentials) ([]string, error) {
	if !i.hasXattrs() {
		return nil, nil
	}
	buf := make([]byte, linux.XATTR_LIST_MAX)
	n, err := unix.Listxattr(procPath(i.fd), buf)
	if err != nil {
		return nil, errno(err)
	}
	var names []string
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, linux.XATTR_USER_PREFIX) || strings.HasPrefix(name, hiddenXattr) {
			continue
		}
		names = append(names, name)
	}
	return names, nil
}

// GetXattr implements tree.Inode.
func (i *inode) GetXattr(creds *auth.Credentials, opts *vfs.GetXattrOptions) (string, error) {
	if err := i.checkXattr(creds, vfs.MayRead, opts.Name); err != nil {
		return "", err
	}
	if !i.hasXattrs() {
		return "", linuxerr.ENODATA
	}
	size := opts.Size
	if size == 0 || size > linux.XATTR_SIZE_MAX {
		size = linux.XATTR_SIZE_MAX
	}
	buf := make([]byte, size)
	n, err := unix.Getxattr(procPath(i.fd), opts.Name, buf)
	if err != nil {
		return "", errno(err)
	}
	return string(buf[:n]), nil
}

// SetXattr implements tree.Inode.
func (i *inode) SetXattr(creds *auth.Credentials, opts *vfs.SetXattrOptions) error {
	if err := i.checkXattr(creds, vfs.MayWrite, opts.Name); err != nil {
		return err
	}
	if !i.hasXattrs() {
		return linuxerr.EPERM
	}
	return errno(i.withGrant(func() error {
		return unix.Setxattr(procPath(i.fd), opts.Name, []byte(opts.Value), int(opts.Flags))
	}))
}

// RemoveXattr implements tree.Inode.
func (i *inode) RemoveXattr(creds *auth.Credentials, name string) error {
	if err := i.checkXattr(creds, vfs.MayWrite, name); err != nil {
		return err
	}
	if !i.hasXattrs() {
		return linuxerr.EPERM
	}
	return errno(i.withGrant(func() error { return unix.Removexattr(procPath(i.fd), name) }))
}

// PosixACL implements tree.Inode: there are none.
func (i *inode) PosixACL(vfs.ACLType) (*vfs.PosixACL, error) { return nil, nil }

// SetPosixACL implements tree.Inode.
func (i *inode) SetPosixACL(*auth.Credentials, vfs.ACLType, *vfs.PosixACL, bool) (*vfs.PosixACL, linux.FileMode, error) {
	return nil, 0, linuxerr.EOPNOTSUPP
}
