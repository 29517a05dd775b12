package emulator

import (
	"fmt"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/reach"
)

// ptsType is the Sentry's devpts with the options uid=, gid= and mode= as Linux has them:
// they are those of ptys. The Sentry takes them for those of the directory: with the
// mode=620 that Debian and systemd give, nobody but root would find a pty there.
type ptsType struct{ devpts.FilesystemType }

// ptsFilesystem is what one mount shows of a devpts.
type ptsFilesystem struct {
	vfs.FilesystemImpl // the Sentry's

	fs    vfs.Filesystem
	inner *vfs.Filesystem
	// owner is whose the ptys are and what modes they have, as far as options say.
	owner linux.Statx
	// shown are the options, as /proc/mounts has them.
	shown string
}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (t *ptsType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	p := &ptsFilesystem{}
	rest, err := p.parse(opts.Data, creds.UserNamespace)
	if err != nil {
		return nil, nil, err
	}
	opts.Data = rest + "mode=755,uid=0,gid=0"
	inner, root, err := t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	if err != nil {
		return nil, nil, err
	}
	p.FilesystemImpl, p.inner = inner.Impl(), inner
	p.fs.Init(v, t, p)
	return &p.fs, root, nil
}

// parse takes the options of ptys out of those of a mount, and returns the others, each
// with a comma behind it.
func (p *ptsFilesystem) parse(data string, ns *auth.UserNamespace) (rest string, err error) {
	p.owner.Mask, p.owner.Mode = linux.STATX_MODE, 0o600
	for _, word := range strings.Split(data, ",") {
		name, value, _ := strings.Cut(word, "=")
		base := 10
		switch name {
		case "mode":
			base = 8
		case "uid", "gid":
		case "":
			continue
		default:
			rest += word + ","
			continue
		}
		n, err := strconv.ParseUint(value, base, 32)
		if err != nil {
			return "", linuxerr.EINVAL
		}
		switch name {
		case "mode":
			p.owner.Mode = uint16(n) & 0o777
		case "uid":
			uid := ns.MapToKUID(auth.UID(n))
			if !uid.Ok() {
				return "", linuxerr.EINVAL
			}
			p.owner.UID = uint32(uid)
			p.owner.Mask |= linux.STATX_UID
			p.shown += word + ","
		case "gid":
			gid := ns.MapToKGID(auth.GID(n))
			if !gid.Ok() {
				return "", linuxerr.EINVAL
			}
			p.owner.GID = uint32(gid)
			p.owner.Mask |= linux.STATX_GID
			p.shown += word + ","
		}
	}
	p.shown += fmt.Sprintf("mode=%03o", p.owner.Mode)
	return rest, nil
}

// Release implements vfs.FilesystemImpl.Release.
func (p *ptsFilesystem) Release(ctx context.Context) { p.inner.DecRef(ctx) }

// MountOptions implements vfs.FilesystemImpl.MountOptions.
func (p *ptsFilesystem) MountOptions() string { return p.shown }

// OpenAt implements vfs.FilesystemImpl.OpenAt. A pty that comes to be gets its owner and
// mode before anyone knows of it.
func (p *ptsFilesystem) OpenAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	mount := rp.Mount()
	fd, err := p.FilesystemImpl.OpenAt(ctx, rp, opts)
	if err != nil {
		return nil, err
	}
	if n, ok := reach.NewPTY(fd); ok {
		root := vfs.MakeVirtualDentry(mount, mount.Root())
		creds := auth.NewRootCredentials(kernel.KernelFromContext(ctx).RootUserNamespace())
		// On a mount that is read-only it stays its opener's.
		_ = fd.Mount().Filesystem().VirtualFilesystem().SetStatAt(ctx, creds, &vfs.PathOperation{
			Root: root, Start: root, Path: fspath.Parse(strconv.FormatUint(n, 10)),
		}, &vfs.SetStatOptions{Stat: p.owner})
	}
	return fd, nil
}
