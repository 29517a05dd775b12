package nbd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errno is an error as the protocol has it (section "Error values"), 0 for none.
type errno uint32

const (
	eperm     errno = 1
	eio       errno = 5
	enomem    errno = 12
	einval    errno = 22
	enospc    errno = 28
	eoverflow errno = 75
)

// text is what a client's user is shown. It says nothing of the host, such as the paths
// that a Device's errors name.
func (e errno) text() string {
	switch e {
	case eperm:
		return "the export is read-only"
	case eio:
		return "the disk fails"
	case enomem:
		return "the server is out of memory"
	case einval:
		return "the request makes no sense"
	case enospc:
		return "no room is left"
	case eoverflow:
		return "the request is too long"
	}
	return ""
}

// errnoOf is the protocol's word for what a Device failed with.
func errnoOf(err error) errno {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return enospc
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return eperm
	case errors.Is(err, unix.ENOMEM):
		return enomem
	}
	return eio
}
