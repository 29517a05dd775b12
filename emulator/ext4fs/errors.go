package ext4fs

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/safecopy"

	"github.com/umlkit/umlkit/ext4"

	gverrors "gvisor.dev/gvisor/pkg/errors"
)

// errnos are the errors of the engine that a guest shall see as they are. What is
// not among them is an I/O error.
var errnos = []unix.Errno{
	unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EISDIR, unix.ENOSPC,
	unix.EROFS, unix.ENODATA, unix.ERANGE, unix.EINVAL, unix.EMLINK, unix.ENAMETOOLONG,
	unix.EFBIG, unix.EOPNOTSUPP, unix.EPERM, unix.ESTALE, unix.E2BIG, unix.EDQUOT,
	unix.EBUSY, unix.ENXIO, unix.ELOOP, unix.EXDEV, unix.ENOMEM, unix.EUCLEAN,
}

// errno turns an error of the engine or of a disk into one that the Sentry hands to
// the guest.
func errno(err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *optionError:
		return linuxerr.EINVAL
	case *gverrors.Error:
		return err
	case safecopy.BusError, safecopy.SegvError, safecopy.AlignmentError:
		return err
	case unix.Errno:
		return linuxerr.ErrorFromUnix(e)
	}
	if err == io.EOF {
		return err
	}
	var ge *gverrors.Error
	if errors.As(err, &ge) {
		return ge
	}
	var corrupt *ext4.CorruptError
	if errors.As(err, &corrupt) && corrupt.BadChecksum() {
		return linuxerr.EBADMSG
	}
	for _, e := range errnos {
		if errors.Is(err, e) {
			return linuxerr.ErrorFromUnix(e)
		}
	}
	return linuxerr.EIO
}

// mountErrno is errno for what mount(2) fails with, which Linux has its own way with: a
// superblock that cannot be right is EINVAL, a checksum of a group EUCLEAN.
func mountErrno(err error) error {
	var corrupt *ext4.CorruptError
	if !errors.As(err, &corrupt) {
		return errno(err)
	}
	switch super := corrupt.What == "superblock"; {
	case super && corrupt.BadChecksum():
		return linuxerr.EBADMSG
	case super:
		return linuxerr.EINVAL
	}
	return linuxerr.EUCLEAN
}

// errno is errno for what the engine answered. A fault of the filesystem itself is
// also logged and treated as the option errors= says.
func (fs *filesystem) errno(err error) error {
	if err == nil {
		return nil
	}
	e := errno(err)
	for _, fault := range []*gverrors.Error{linuxerr.EIO, linuxerr.EUCLEAN, linuxerr.EBADMSG} {
		if linuxerr.Equals(fault, e) {
			fs.fault(err)
		}
	}
	return e
}
