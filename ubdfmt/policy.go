package ubdfmt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Policy says over which backing file a COW file opens. Its zero value is the policy of
// the kernel's driver; this is all of it, for every function here that opens the two.
//
// Validation: the backing file's size must be the header's, and then its modification
// time, in whole seconds modulo 2^32. Anything else is a *MismatchError, and neither
// file is touched. The size is never ignored: it says where in the COW file everything
// lies.
//
// Adoption: a backing file that is named beside the COW file, is not the one that the
// header names (by device and inode, not by path) and passes validation is written
// into the header of a COW file that is opened for writing. One that does not pass is
// adopted by Rebase alone, which compares first, or is told not to.
//
// Locking: the COW file is locked for writing, or for reading if it is only read, and
// the backing file for reading, from opening to closing; what another process holds is
// a *LockedError with its number. A lock that no living process is known to hold is
// awaited for two seconds: that of a machine that was killed goes with the last of its
// guest processes. Validation comes after the locks, so that it stays true.
// Options.Shared takes no locks. A merge in place locks both for writing.
type Policy struct {
	// Backing is taken in place of the path in the header.
	Backing string
	// AnyTime takes a backing file of any modification time. The header then stays as
	// it is. It is for looking at a disk whose backing file was touched: whether
	// what the disk shows makes sense is for the caller to know.
	AnyTime bool
}

// openBacking opens and validates the backing file of an open COW file. It tells whether
// the header names another file than the one opened.
func (p Policy) openBacking(cow *hostFile, h Header, o Options) (b *hostFile, other bool, err error) {
	path := h.Backing
	if p.Backing != "" {
		path = p.Backing
	}
	// Before it is locked: the lock of the COW file would be in the way.
	if info, err := os.Stat(path); err == nil && os.SameFile(info, cow.info) {
		return nil, false, fmt.Errorf("%s: it is named as its own backing file", cow.path)
	}
	// An option of the COW file is none of the backing file, which is only read.
	f, err := openHost(path, Options{ReadOnly: true, Shared: o.Shared, Logf: o.Logf}, false)
	if err != nil {
		return nil, false, fmt.Errorf("backing file of %s: %w", cow.path, err)
	}
	if os.SameFile(f.info, cow.info) {
		f.Close()
		return nil, false, fmt.Errorf("%s: it is named as its own backing file", cow.path)
	}
	if p.Backing != "" {
		if named, err := os.Stat(h.Backing); err != nil || !os.SameFile(named, f.info) {
			other = true
			o.logf("Backing file mismatch - %q requested, %q specified in COW header of %q", p.Backing, h.Backing, cow.path)
		}
	}
	if err := p.validate(h, cow.path, f); err != nil {
		f.Close()
		return nil, false, err
	}
	return f, other, nil
}

// validate checks that the backing file is the one the header was written for.
func (p Policy) validate(h Header, cow string, b *hostFile) error {
	if b.size != h.Size {
		return &MismatchError{COW: cow, Backing: b.path, Field: "size", Header: h.Size, Actual: b.size}
	}
	if uint32(b.mtime()) != h.MTime && !p.AnyTime {
		return &MismatchError{COW: cow, Backing: b.path, Field: "mtime", Header: int64(h.MTime), Actual: b.mtime()}
	}
	return nil
}

// adopt makes the header that of another backing file, or of another state of it: next
// differs from it in path, modification time and size alone. It writes one run of bytes,
// which but for version 2 and the longest of names lies in one page of the file: a kill
// leaves the old header or the new one. Behind a shorter name what the old one had stays,
// as kernels leave it. Then it is stable.
func (h *hostFile) adopt(hdr *Header, next Header) error {
	if next == *hdr {
		return nil
	}
	if err := h.writeHeader(hdr, next); err != nil {
		return err
	}
	return h.datasync()
}

// writeHeader is adopt, but for the last.
func (h *hostFile) writeHeader(hdr *Header, next Header) error {
	if next == *hdr {
		return nil
	}
	b, err := next.Encode()
	if err != nil {
		return withPath(err, h.path)
	}
	f := dialectFields[hdr.Dialect]
	nul := f.path + len(next.Backing) + 1
	if tail := f.path + f.pathLength; nul < tail {
		if err := h.readFull(b[nul:tail], int64(nul), h.size); err != nil {
			return err
		}
	}
	end := nul
	if f.mtime > f.path {
		end = f.length
	}
	if _, err := h.WriteAt(b[f.first():end], int64(f.first())); err != nil {
		return err
	}
	*hdr = next
	return nil
}

// over returns the header of the same COW file over the backing file as it is now, by
// another name unless that is "".
func (h Header) over(backing string, b *hostFile) (Header, error) {
	h.MTime, h.Size = uint32(b.mtime()), b.size
	if backing == "" {
		return h, nil
	}
	abs, err := absolute(backing)
	h.Backing = abs
	return h, err
}

// first is where the first of path and mtime stands.
func (f fields) first() int { return min(f.path, f.mtime) }

// ReadHeader reads the header of a COW file, and nothing else of it; it takes no lock.
// Its errors are the host's, *HeaderError and *DialectError.
func ReadHeader(path string) (Header, error) {
	f, err := openHost(path, Options{ReadOnly: true, Shared: true}, true)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	return f.readHeader()
}

// readHeader reads and checks the header of a COW file.
func (h *hostFile) readHeader() (Header, error) {
	b := make([]byte, HeaderLength)
	n, err := h.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return Header{}, err
	}
	hdr, err := decodeHeader(b[:n], h.size)
	if err != nil {
		return Header{}, withPath(err, h.path)
	}
	return hdr, nil
}

// Layer is one file of those that make up a disk.
type Layer struct {
	// Path is as it was named: by the caller, or by the header above.
	Path string
	// Header is what a COW file says of itself; nil for a raw image.
	Header *Header
	// Info is the host's. For a block device its Size is without meaning.
	Info os.FileInfo
	// Size is the length of the file, or of the block device, in bytes.
	Size int64
}

// maxLayers is how many files of a chain are looked at. A COW file over a COW file does
// not work as a disk; that somebody made one is for the caller to say.
const maxLayers = 16

// Chain returns the files that a disk is made of, topmost first. It only reads headers
// and takes no lock. With an error, such as that of a backing file that is not there,
// it returns the layers above too.
func Chain(path string) ([]Layer, error) {
	var chain []Layer
	for {
		l, err := layer(path)
		if err != nil {
			if n := len(chain); n > 0 {
				err = fmt.Errorf("backing file of %s: %w", chain[n-1].Path, err)
			}
			return chain, err
		}
		for _, above := range chain {
			if os.SameFile(above.Info, l.Info) {
				return chain, fmt.Errorf("backing file of %s: %s is above it: a loop", chain[len(chain)-1].Path, path)
			}
		}
		if chain = append(chain, l); l.Header == nil {
			return chain, nil
		}
		if len(chain) == maxLayers {
			return chain, fmt.Errorf("%s: more than %d COW files lie over each other", chain[0].Path, maxLayers-1)
		}
		path = l.Header.Backing
	}
}

func layer(path string) (Layer, error) {
	f, err := openHost(path, Options{ReadOnly: true, Shared: true}, true)
	if err != nil {
		return Layer{}, err
	}
	defer f.Close()
	l := Layer{Path: path, Info: f.info, Size: f.size}
	isCOW, err := f.isCOW()
	if err != nil || !isCOW {
		return l, err
	}
	h, err := f.readHeader()
	if err != nil {
		return l, err
	}
	l.Header = &h
	return l, nil
}

// Siblings returns the other COW files in the directory of a COW file, and in that of its
// backing file, that name the same backing file: those that no longer match once it was
// merged into. What lies in other directories nobody can find.
func Siblings(cow, backing string) ([]string, error) {
	base, err := os.Stat(backing)
	if err != nil {
		return nil, err
	}
	self, err := os.Stat(cow)
	if err != nil {
		return nil, err
	}
	seen := []os.FileInfo{self, base}
	var found []string
	dirs := []string{dirOf(cow)}
	if target, err := resolve(backing); err == nil {
		if info, err := os.Stat(dirs[0]); err == nil && !isFile(dirOf(target), info) {
			dirs = append(dirs, dirOf(target))
		}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			if errors.Is(err, unix.EACCES) {
				continue
			}
			return nil, err
		}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			path := e.Name()
			if dir != "." {
				path = dir + path
			}
			info, err := os.Stat(path)
			// A file that is seen, or is ours, is not opened: to close it would take
			// the name off a lock of it.
			if err != nil || slices.ContainsFunc(seen, func(s os.FileInfo) bool { return os.SameFile(s, info) }) {
				continue
			}
			seen = append(seen, info)
			if h, err := ReadHeader(path); err == nil && isFile(h.Backing, base) {
				found = append(found, path)
			}
		}
	}
	return found, nil
}

func isFile(path string, info os.FileInfo) bool {
	have, err := os.Stat(path)
	return err == nil && os.SameFile(have, info)
}
