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
	// Keep leaves the COW file as it is when it was merged in place, as the historic
	// uml_moo does; it then no longer matches. Merge always leaves it.
	Keep bool
	// NoSync does not wait until the new image of Merge is stable: if the host crashes
	// soon after, it may be empty or hold only a part. MergeInPlace ignores it: of what
	// it empties nothing else is left.
	NoSync bool
	// Others is told, before a merge in place changes anything, which other COW files
	// Siblings sees: they will not match any more. It may be nil, and is not called
	// when there are none.
	Others func(cows []string)
	// Progress is told how much of the disk is done, in bytes, one call at a time.
	// It may be nil.
	Progress func(done, total int64)
}

// Merge writes what the disk of a COW file shows to a new raw image. The image appears
// under its name, whole and, unless o.NoSync, stable, or not at all; one that is there already is
// replaced, unless it is the COW file or the backing file themselves, in use by a
// machine, or no regular file. Zeros become holes. COW file and backing file are
// only read.
//
// The errors are *MismatchError and *MergeError.
func Merge(ctx context.Context, cow, output string, o MergeOptions) error {
	c, err := openMerge(cow, o.Backing, intoNew)
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

	m := merger{source: c, target: &hostFile{File: out.File, path: output}, noSync: o.NoSync, progress: o.Progress}
	if m.cloned = c.backing.cloneTo(out.File); !m.cloned {
		if err := out.Truncate(c.header.Size); err != nil {
			return &MergeError{"Writing data", err}
		}
	}
	if err := m.run(ctx); err != nil {
		return &MergeError{"Writing data", err}
	}
	if o.NoSync {
		err = out.commitUnsynced(true)
	} else {
		err = out.commit(true)
	}
	if err != nil {
		return &MergeError{"Writing data", err}
	}
	return nil
}

// MergeInPlace writes what a COW file holds into its backing file, and then, unless
// o.Keep, empties the COW file and makes it match the backing file as it is now, so that
// it shows the same disk as before. Any other COW file over that backing file no longer
// matches. A merge that was cut short leaves the backing file's name with ".merging"
// appended beside it: the same merge, done again, then goes on in spite of the changed
// modification time, and removes that file when it is done. The end is the same wherever
// it was cut.
//
// The errors are *MismatchError and *MergeError.
func MergeInPlace(ctx context.Context, cow string, o MergeOptions) error {
	how := inPlace
	if !o.Keep {
		how = inPlaceEmptying
	}
	c, err := openMerge(cow, o.Backing, how)
	if err != nil {
		return err
	}
	defer c.close()
	if c.matches {
		last, err := c.bits.end()
		if err != nil {
			return &MergeError{"Reading COW bitmap", err}
		}
		if last == 0 {
			// Nothing to merge. One that was cut short may have come this far, and nobody
			// knows how much of it is on the disk.
			if !o.Keep {
				if err := c.file.datasync(); err != nil {
					return &MergeError{"Emptying COW file", err}
				}
			}
			return c.end(!o.Keep)
		}
	}
	if o.Others != nil {
		// Who cannot look around is told of nothing.
		if cows, err := Siblings(c.file.path, c.backing.path); err == nil && len(cows) > 0 {
			o.Others(cows)
		}
	}
	if err := c.begin(ctx); err != nil {
		return &MergeError{"Writing data", err}
	}
	m := merger{source: c, target: c.backing, cloned: true, progress: o.Progress}
	if err := m.run(ctx); err != nil {
		return &MergeError{"Writing data", err}
	}
	if err := c.backing.fullSync(); err != nil {
		return &MergeError{"Writing data", err}
	}
	if !o.Keep {
		if err := c.empty(); err != nil {
			return &MergeError{"Emptying COW file", err}
		}
	}
	return c.end(!o.Keep)
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
	// matches: the backing file is the header's; otherwise this goes on with a merge
	// that was cut short.
	matches bool
}

// purpose is what the pair of files is opened for.
type purpose int

const (
	intoNew         purpose = iota // both are read
	inPlace                        // the backing file is written
	inPlaceEmptying                // both are
)

// openMerge opens and checks a COW file and its backing file.
func openMerge(path, backing string, to purpose) (_ *mergeSource, err error) {
	f, err := openHost(path, Options{ReadOnly: to != inPlaceEmptying}, true)
	if err != nil {
		if to == inPlaceEmptying && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS)) {
			err = fmt.Errorf("%w; it is emptied in the end, unless it is to be kept", err)
		}
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
	info, err := os.Stat(backing)
	if err != nil {
		return nil, &MergeError{"Stating backing file", err}
	}
	// Before it is locked: the lock of the COW file would be in the way.
	if os.SameFile(info, f.info) {
		return nil, &MergeError{"Opening backing file", fmt.Errorf("%s is the COW file itself", backing)}
	}
	// A backing file that may not be written cannot be merged into: no falling back.
	if c.backing, err = openHost(backing, Options{ReadOnly: to == intoNew}, true); err != nil {
		return nil, &MergeError{"Opening backing file", err}
	}
	mismatch := (Policy{}).validate(c.header, f.path, c.backing)
	c.matches = mismatch == nil
	if !c.matches && (to == intoNew || !c.resumes(mismatch)) {
		return nil, mismatch
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
	return fmt.Appendf(nil, "uml_moo -d was cut short; run it again\ncow %q", c.file.path),
		fmt.Appendf(nil, "\nfile %d:%d size %d mtime %d\n", st.Dev, st.Ino, c.header.Size, c.header.MTime), nil
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
	_, identity, err := c.mark()
	if err != nil {
		return false
	}
	have, ok := c.readMark()
	return ok && bytes.HasSuffix(have, identity)
}

// readMark returns what the mark beside the backing file says, if there is one.
func (c *mergeSource) readMark() ([]byte, bool) {
	path, ok := c.markPath()
	if !ok {
		return nil, false
	}
	have, err := readSmall(path)
	return have, err == nil
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
		if err := c.backing.setLength(c.backing.size); err != nil {
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
	return c.backing.fullSync()
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

// empty makes the COW file hold nothing and match the backing file as it is now. Bitmap and
// header may reach the disk in any order, and in part: as long as the header does not match,
// the merge can be done again; and when it does, what is left of the bitmap stands for data
// that is there still, and is that of the backing file.
func (c *mergeSource) empty() error {
	if err := c.file.zero(c.layout.BitmapOffset, c.layout.BitmapLength); err != nil {
		return err
	}
	if err := c.backing.inspect(); err != nil {
		return err
	}
	// The backing file of another name is the one that has what was merged.
	name := ""
	if named, err := os.Stat(c.header.Backing); err != nil || !os.SameFile(named, c.backing.info) {
		name = c.backing.path
	}
	next, err := c.header.over(name, c.backing)
	if err != nil {
		return err
	}
	if err := c.file.writeHeader(&c.header, next); err != nil {
		return err
	}
	return c.file.datasync()
}

// free gives back the space of the data of a COW file that stably holds none. No sync comes
// after it, which may wait until the host has told its disk of every extent: what a crash
// brings back means nothing, and goes with the next merge.
func (c *mergeSource) free() error {
	from, end := c.layout.DataOffset, c.file.size
	// A new COW file has nothing to give back but the byte that ends it, and stays as it is.
	first, last := c.file.wholeBlocks(from, end)
	if data, err := c.file.seek(first, unix.SEEK_DATA); err != nil || data >= last {
		return err
	}
	// Where the host cannot take it back, what it holds stays, and means as little.
	if err := c.file.punch(from, end-from); err != nil && !cannotPunch(err) {
		return err
	}
	return nil
}

// end removes the mark, and then, of a COW file that was emptied, what means nothing.
func (c *mergeSource) end(emptied bool) error {
	if err := c.removeMark(); err != nil || !emptied {
		return err
	}
	if err := c.free(); err != nil {
		return &MergeError{"Emptying COW file", err}
	}
	return nil
}

// removeMark removes the mark, if it is that of this COW file.
func (c *mergeSource) removeMark() error {
	have, ok := c.readMark()
	if !ok {
		return nil
	}
	_, identity, err := c.mark()
	if err != nil {
		return err
	}
	file, _, _ := bytes.Cut(identity, []byte(" size "))
	if !bytes.Contains(have, append(file, ' ')) {
		return nil
	}
	path, _ := c.markPath()
	if err := os.Remove(path); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
		return err
	}
	return syncDir(dirOf(path))
}
