package ubdfmt

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// LockedError says that another process holds the lock of a host file.
type LockedError struct {
	Path string
	// PID is the process that holds the lock, 0 when it cannot be told.
	PID int
}

// Error begins with the words of the kernel's driver.
func (e *LockedError) Error() string {
	s := fmt.Sprintf("Failed to lock '%s', err = %d", e.Path, int(unix.EAGAIN))
	if e.PID > 0 {
		return fmt.Sprintf("%s: process %d holds it", s, e.PID)
	}
	return s + ": another process holds it"
}

// Unwrap makes errors.Is(err, unix.EAGAIN) hold.
func (e *LockedError) Unwrap() error { return unix.EAGAIN }

// MismatchError says that a backing file is not, or no longer, the one that a COW
// file was made for. Neither file was touched.
type MismatchError struct {
	COW, Backing string
	// Field is "size" or "mtime".
	Field string
	// Header is the value in the COW file, Actual that of the backing file, in
	// bytes or seconds since 1970.
	Header, Actual int64
}

// Error has the words of the kernel and of the historic uml_moo.
func (e *MismatchError) Error() string {
	field := e.Field
	if field == "size" {
		field = "Size"
	}
	return fmt.Sprintf("%s mismatch (%d vs %d) of COW header vs backing file %q", field, e.Header, e.Actual, e.Backing)
}

// Unwrap makes errors.Is(err, unix.EINVAL) hold, the kernel's errno for it.
func (e *MismatchError) Unwrap() error { return unix.EINVAL }

// HeaderError says what makes no sense in a COW file.
type HeaderError struct {
	// Path is the COW file; empty when a codec was given bytes and no file.
	Path string
	// Field is the header's field, in the names of the format, and Value what it
	// holds.
	Field  string
	Value  uint64
	Reason string
}

// Error names the file, the field and the value.
func (e *HeaderError) Error() string {
	s := fmt.Sprintf("COW header: %s %d %s", e.Field, e.Value, e.Reason)
	if e.Field == "magic" {
		s = fmt.Sprintf("COW header: magic %#08x %s", e.Value, e.Reason)
	}
	if e.Path != "" {
		return e.Path + ": " + s
	}
	return s
}

// Unwrap makes errors.Is(err, unix.EINVAL) hold, the kernel's errno for it.
func (e *HeaderError) Unwrap() error { return unix.EINVAL }

// DialectError says that a COW file is of a dialect that is recognised and not read.
type DialectError struct {
	// Path is the COW file; empty when a codec was given bytes and no file.
	Path    string
	Dialect Dialect
}

// Error names the file and the dialect.
func (e *DialectError) Error() string {
	s := fmt.Sprintf("the format is %v, which is not read; COW versions 1 to 3 of little-endian hosts are", e.Dialect)
	if e.Path != "" {
		return e.Path + ": " + s
	}
	return s
}

// Unwrap makes errors.Is(err, unix.EINVAL) hold, the kernel's errno for it.
func (e *DialectError) Unwrap() error { return unix.EINVAL }

// withPath fills in the file that a codec's error is about.
func withPath(err error, path string) error {
	switch e := err.(type) {
	case *HeaderError:
		e.Path = path
	case *DialectError:
		e.Path = path
	}
	return err
}

// Printable is a text in one line and harmless for a terminal: errors name paths from
// headers, which are whatever somebody put there.
func Printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && n == 1 { // C0, C1, no UTF-8
			for _, c := range []byte(text[:n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}
