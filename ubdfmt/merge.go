package ubdfmt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// MergeOptions say how a COW file is merged.
type MergeOptions struct {
	// Backing is the backing file to take instead of the one the header names; it
	// must still be of the header's size and modification time.
	Backing string
	// Progress is told how much of the disk is done, in bytes, one call at a time.
	// It may be nil.
	Progress func(done, total int64)
}

// Merge writes what the disk of a COW file shows to a new raw image. The image appears
// under its name, whole and stable, or not at all; one that is there already is
// replaced, unless it is the COW file or the backing file themselves, in use by a
// machine, or no regular file. Zeros become holes. COW file and backing file are
// only read.
//
// The errors are *MismatchError and *MergeError.
func Merge(ctx context.Context, cow, output string, o MergeOptions) error {
	c, err := openMerge(cow, o.Backing, false)
	if err != nil {
		return err
	}
	defer c.close()
	path, old, err := c.checkOutput(output)
	if err != nil {
		return &MergeError{"Output file open", err}
	}
	if old != nil {
		defer old.Close()
	}
	out, err := createFile(path)
	if err != nil {
		return &MergeError{"Output file open", err}
	}
	defer out.discard()

	m := merger{source: c, target: &hostFile{File: out.File, path: output}, progress: o.Progress}
	if m.cloned = c.backing.cloneTo(out.File); !m.cloned {
		if err := out.Truncate(c.header.Size); err != nil {
			return &MergeError{"Writing data", err}
		}
	}
	if err := m.run(ctx); err != nil {
		return &MergeError{"Writing data", err}
	}
	if err := out.commit(true); err != nil {
		return &MergeError{"Writing data", err}
	}
	return nil
}

// MergeInPlace writes what a COW file holds into its backing file. The COW file is only
// read; it no longer matches the backing file afterwards, and nor does any other COW
// file over it. A merge that was cut short leaves the backing file's name with
// ".merging" appended beside it: the same merge, done again, then goes on in spite of
// the changed modification time, and removes that file when it is done.
//
// The errors are *MismatchError and *MergeError.
func MergeInPlace(ctx context.Context, cow string, o MergeOptions) error {
	c, err := openMerge(cow, o.Backing, true)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.begin(ctx); err != nil {
		return &MergeError{"Writing data", err}
	}
	m := merger{source: c, target: c.backing, cloned: true, progress: o.Progress}
	if err := m.run(ctx); err != nil {
		return &MergeError{"Writing data", err}
	}
	if err := c.backing.Sync(); err != nil {
		return &MergeError{"Writing data", err}
	}
	return c.end()
}

// MergeError says at what step a merge failed.
type MergeError struct {
	// Step is in the words of the historic uml_moo, such as "COW file open".
	Step string
	Err  error
}

func (e *MergeError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns the cause: one of OpenCOW's errors, or the host's.
func (e *MergeError) Unwrap() error { return e.Err }

// mergeSource is the pair of files that is merged.
type mergeSource struct {
	file, backing *hostFile
	header        Header
	layout        Layout
	bits          *bitmap
}

// openMerge opens and checks a COW file, and its backing file for writing if the merge
// is to be in place.
func openMerge(path, backing string, inPlace bool) (_ *mergeSource, err error) {
	f, err := openHost(path, Options{ReadOnly: true}, false)
	if err != nil {
		return nil, &MergeError{"COW file open", err}
	}
	c := &mergeSource{file: f}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.header, err = f.readHeader(); err != nil {
		return nil, &MergeError{"Reading COW header failed", err}
	}
	c.layout = c.header.Layout()
	if backing == "" {
		backing = c.header.Backing
	}
	if _, err := os.Stat(backing); err != nil {
		return nil, &MergeError{"Stating backing file", err}
	}
	// A backing file that may not be written cannot be merged into: no falling back.
	if c.backing, err = openHost(backing, Options{ReadOnly: !inPlace}, true); err != nil {
		return nil, &MergeError{"Opening backing file", err}
	}
	if os.SameFile(c.backing.info, f.info) {
		return nil, &MergeError{"Opening backing file", fmt.Errorf("%s is the COW file itself", backing)}
	}
	if err := (Policy{}).validate(c.header, f.path, c.backing); err != nil && !(inPlace && c.resumes(err)) {
		return nil, err
	}
	if c.bits, err = f.readBitmap(c.header, c.layout); err != nil {
		return nil, &MergeError{"Reading COW bitmap", err}
	}
	return c, nil
}

func (c *mergeSource) close() {
	c.file.Close()
	if c.backing != nil {
		c.backing.Close()
	}
}

// checkOutput returns the path that an output file would have, symbolic links resolved,
// and the file that is there, open and locked, or nil.
func (c *mergeSource) checkOutput(output string) (path string, old *hostFile, err error) {
	if path, err = resolve(output); err != nil {
		return "", nil, err
	}
	old, err = openHost(path, Options{Shared: true}, true)
	if errors.Is(err, unix.ENOENT) {
		return path, nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			old.Close()
			old = nil
		}
	}()
	switch {
	case os.SameFile(old.info, c.backing.info):
		return "", old, fmt.Errorf("%s is the backing file; -d merges into it", output)
	case os.SameFile(old.info, c.file.info):
		return "", old, fmt.Errorf("%s is the COW file", output)
	case !old.info.Mode().IsRegular():
		return "", old, fmt.Errorf("%s is not a regular file", output)
	}
	return path, old, lock(old.File, output, true)
}

// resolve follows the symbolic links at the end of a path, to a name that may not exist
// yet.
func resolve(path string) (string, error) {
	for range 40 {
		target, err := os.Readlink(path)
		if err != nil {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				return path, nil
			}
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = dirOf(path) + "/" + target
		}
		path = target
	}
	return "", &os.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// cloneTo makes an empty file share the content of h, where the host can do that.
func (h *hostFile) cloneTo(out *os.File) bool {
	if !h.info.Mode().IsRegular() {
		return false
	}
	err := control(h.File, func(src int) error {
		return control(out, func(dst int) error { return unix.IoctlFileClone(dst, src) })
	})
	return err == nil
}

// markPath is the file that says that a backing file is half merged. Nothing can stand
// beside a block device.
func (c *mergeSource) markPath() (string, bool) {
	path, err := resolve(c.backing.path)
	return path + ".merging", err == nil && c.backing.info.Mode().IsRegular()
}

// mark is what that file says: which COW file is being merged, by its place on the
// host, and for which state of the backing file it was made. The COW file's name is
// there to be read: it has others.
func (c *mergeSource) mark() (name, identity []byte, err error) {
	var st unix.Stat_t
	if err := control(c.file.File, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, nil, err
	}
	return fmt.Appendf(nil, "uml_moo -d was cut short; run it again\ncow %q\n", c.file.path),
		fmt.Appendf(nil, "file %d:%d size %d mtime %d\n", st.Dev, st.Ino, c.header.Size, c.header.MTime), nil
}

// resumes tells whether a mismatch is the doing of this very merge, cut short.
func (c *mergeSource) resumes(mismatch error) bool {
	var e *MismatchError
	if !errors.As(mismatch, &e) {
		return false
	}
	// The last thing that a merge does may have been to make the last sector whole.
	if e.Field == "size" && e.Actual != c.layout.Sectors*SectorSize {
		return false
	}
	path, ok := c.markPath()
	if !ok {
		return false
	}
	have, err := readSmall(path)
	if err != nil {
		return false
	}
	_, identity, err := c.mark()
	return err == nil && bytes.HasSuffix(have, append([]byte("\n"), identity...))
}

// begin leaves the mark, if the directory allows it, and then makes the backing file
// another one for every COW file, before a byte of it has changed.
func (c *mergeSource) begin(ctx context.Context) error {
	if err := c.leaveMark(); err != nil {
		return err
	}
	if !c.backing.info.Mode().IsRegular() {
		return nil
	}
	// In the very second that the headers name it would stay the same.
	for range 60 {
		if err := c.backing.Truncate(c.backing.size); err != nil {
			return err
		}
		if err := c.backing.inspect(); err != nil {
			return err
		}
		if uint32(c.backing.mtime()) != c.header.MTime {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return c.backing.Sync()
}

func (c *mergeSource) leaveMark() error {
	path, ok := c.markPath()
	if !ok {
		return nil
	}
	name, identity, err := c.mark()
	if err != nil {
		return err
	}
	f, err := createFile(path)
	if err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EPERM) {
			return nil
		}
		return err
	}
	defer f.discard()
	if _, err := f.Write(append(name, identity...)); err != nil {
		return fmt.Errorf("create %s: %w", path, errno(err))
	}
	return f.commit(true)
}

// end removes the mark.
func (c *mergeSource) end() error {
	path, ok := c.markPath()
	if !ok {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
		return err
	}
	return syncDir(dirOf(path))
}
