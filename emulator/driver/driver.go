// Package driver is the one shape that every device driver of the machine has.
//
// A driver serves a family of units: ubd serves ubd0, ubd1 and so on, con serves
// con0, con1. The command line and the management console both speak to drivers
// only through Driver, so a unit is specified in the same words, and a specification
// is read by the same code, wherever it was written.
package driver

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Driver configures, describes and removes the units of one family. Its methods may
// be called by any number of goroutines at once, before the machine boots and while
// it runs.
type Driver interface {
	// Configure makes a unit. The unit is what stands between the family's name
	// and the "=", flags included ("0" and "0rs" for ubd, "vec0" has "0"), and spec
	// is what stands behind it. A unit that is there already is refused, but where
	// the family says otherwise.
	Configure(unit, spec string) error

	// Describe says how a unit is configured, in words that Configure would take.
	// A unit that could be there and is not has the empty description.
	Describe(unit string) (string, error)

	// Remove takes a unit away. A unit in use is refused.
	Remove(unit string) error
}

// Code is the status that the management console sends with a refusal: a negative
// errno, or 1 where real kernels have no errno to give.
type Code int

// The codes that drivers give.
const (
	// NoDevice: the unit is not configured.
	NoDevice = Code(-int(unix.ENODEV))
	// Busy: the unit is in use, or configured already.
	Busy = Code(-int(unix.EBUSY))
	// NotFound: a file of the specification does not exist.
	NotFound = Code(-int(unix.ENOENT))
	// Invalid: the specification is not in a form the driver takes.
	Invalid = Code(-int(unix.EINVAL))
	// BadPair: a channel pair cannot be read. Real kernels give -1 here.
	BadPair = Code(-1)
	// Unparsed: the unit itself is wrong. Real kernels give a bare 1 here.
	Unparsed = Code(1)
)

// Error is a refusal as the management console tells it.
type Error struct {
	// Code goes into the reply's status.
	Code Code
	// Text goes into the reply, one line without a newline.
	Text string
	// Err is the cause, if there is more to know than Text says. It may be nil.
	Err error
}

// Error is the text of the refusal, as real kernels word it.
func (e *Error) Error() string { return e.Text }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes a refusal. An error among args that is formatted with %w becomes the
// refusal's cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: err.Error(), Err: errors.Unwrap(err)}
}

// Status is the code and the text to reply for err: those of an *Error anywhere in
// its chain, the negative errno of a system call's error, or 1.
func Status(err error) (Code, string) {
	if err == nil {
		return 0, ""
	}
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Code, refusal.Text
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return Code(-int(errno)), err.Error()
	}
	return Unparsed, err.Error()
}
