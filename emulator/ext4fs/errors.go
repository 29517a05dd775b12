package ext4fs

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/safecopy"

	gverrors "gvisor.dev/gvisor/pkg/errors"
)

// errnos are the errors of the engine that a guest shall see as they are. What is
// not among them is an I/O error.
var errnos = []unix.Errno{
	unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EISDIR, unix.ENOSPC,
	unix.EROFS, unix.ENODATA, unix.ERANGE, unix.EINVAL, unix.EMLINK, unix.ENAMETOOLONG,
	unix.EFBIG, unix.EOPNOTSUPP, unix.EPERM, unix.ESTALE, unix.E2BIG, unix.EDQUOT,
	unix.EBUSY, unix.ENXIO, unix.ELOOP, unix.EXDEV, unix.ENOMEM,
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
	for _, e := range errnos {
		if errors.Is(err, e) {
			return linuxerr.ErrorFromUnix(e)
		}
	}
	return linuxerr.EIO
}

// errno is errno for what the engine answered. A fault of the filesystem itself is
// also logged and treated as the option errors= says.
func (fs *filesystem) errno(err error) error {
	if err == nil {
		return nil
	}
	e := errno(err)
	if linuxerr.Equals(linuxerr.EIO, e) {
		fs.fault(err)
	}
	return e
}
