// Package initramfs reads the archives that become a kernel's first root: cpio in the
// "newc" form, one or several behind each other, each plain or compressed. The format is
// that of Linux's Documentation/driver-api/early-userspace/buffer-format.rst.
package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// Entry is one file of an archive.
type Entry struct {
	// Name is a clean path without a slash before it; the root itself is ".".
	Name string
	// Mode is the type and the permissions, as in stat(2).
	Mode                      uint32
	UID, GID, Mtime           uint32
	RdevMajor, RdevMinor      uint32
	Size                      int64
	inode, devMajor, devMinor uint32
	links                     uint32
	// Target is the name of the entry that this one is a hard link to; empty for
	// the first of a set.
	Target string
}

// Limits bound what an archive may unpack to.
type Limits struct {
	// Bytes counts what is read after decompression, headers and padding with it.
	Bytes int64
	// Entries counts files of every kind.
	Entries int64
}

const (
	headerSize = 110
	maxName    = 4096
	trailer    = "TRAILER!!!"
	// maxLinks bounds what is remembered of files with several names.
	maxLinks = 1 << 20
)

// Read visits the entries of the archives in r, in their order. content holds the
// entry's Size bytes; what visit leaves unread is skipped. A hard link comes after the
// entry that it is a link to, and may bring content where that one brought none. An
// error of visit ends the reading and is returned, with what was visited until then.
func Read(r io.Reader, limits Limits, visit func(e Entry, content io.Reader) error) error {
	in := &input{r: r}
	a := &archive{limits: limits, visit: visit}
	for {
		magic, err := skipZeros(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if magic[0] == '0' {
			if err := a.read(in); err != nil {
				return err
			}
			continue
		}
		plain, err := decompress(in, magic)
		if err != nil {
			return err
		}
		if err := a.inside(plain); err != nil {
			return err
		}
		if err := plain.end(); err != nil {
			return err
		}
	}
}

// inside reads the archives that were compressed together.
func (a *archive) inside(plain io.Reader) error {
	in := &input{r: plain}
	for {
		magic, err := skipZeros(bounded{in, a})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if magic[0] != '0' {
			return errors.New("junk within compressed archive")
		}
		if err := a.read(in); err != nil {
			return err
		}
	}
}

// peeker is what skipZeros reads.
type peeker interface {
	io.ByteReader
	peek(n int) ([]byte, error)
}

// bounded counts the zeros between compressed archives, of which there might be no end.
type bounded struct {
	*input
	a *archive
}

// ReadByte implements io.ByteReader.
func (b bounded) ReadByte() (byte, error) {
	if err := b.a.count(1); err != nil {
		return 0, err
	}
	return b.input.ReadByte()
}

// skipZeros passes over the zeros between archives and shows the bytes behind them, at
// least one.
func skipZeros(in peeker) ([]byte, error) {
	for {
		magic, err := in.peek(6)
		if len(magic) == 0 {
			return nil, err
		}
		if magic[0] != 0 {
			return magic, nil
		}
		if _, err := in.ReadByte(); err != nil {
			return nil, err
		}
	}
}

// archive is what is kept from one archive to the next.
type archive struct {
	limits  Limits
	bytes   int64
	entries int64
	visit   func(Entry, io.Reader) error
	// at is the place in the archive that is read.
	at int64
}

// count adds n bytes to what was unpacked.
func (a *archive) count(n int64) error {
	if a.bytes += n; a.bytes > a.limits.Bytes {
		return fmt.Errorf("unpacks to more than %d bytes: mem= is too small for it", a.limits.Bytes)
	}
	return nil
}

// read reads one archive up to its trailer.
func (a *archive) read(in *input) error {
	type file struct{ major, minor, inode uint32 }
	links := make(map[file]string)
	a.at = 0
	for {
		e, err := header(in)
		if err != nil {
			return err
		}
		nameSize := int64(len(e.raw)) + 1
		if err := a.pad(in, headerSize+nameSize); err != nil {
			return err
		}
		if err := a.count(headerSize + nameSize); err != nil {
			return err
		}
		if e.raw == trailer {
			return nil
		}
		if a.entries++; a.entries > a.limits.Entries {
			return fmt.Errorf("more than %d files: mem= is too small for it", a.limits.Entries)
		}
		if e.Name, err = clean(e.raw); err != nil {
			return err
		}
		if e.links > 1 && e.Mode&0o170000 == 0o100000 {
			id := file{e.devMajor, e.devMinor, e.inode}
			if first, ok := links[id]; ok {
				e.Target = first
			} else if len(links) < maxLinks {
				links[id] = e.Name
			}
		}
		if err := a.count(e.Size); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		content := &io.LimitedReader{R: in, N: e.Size}
		if err := a.visit(e.Entry, content); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if content.N > 0 {
			return fmt.Errorf("%s: ends after %d of %d bytes", e.Name, e.Size-content.N, e.Size)
		}
		if err := a.pad(in, e.Size); err != nil {
			return err
		}
	}
}

// pad passes n bytes that were read, and reads on to the next multiple of four.
func (a *archive) pad(in *input, n int64) error {
	a.at += n
	fill := -a.at & 3
	a.at += fill
	if _, err := io.CopyN(io.Discard, in, fill); err != nil {
		return fmt.Errorf("ends within padding: %w", err)
	}
	return nil
}

type rawEntry struct {
	Entry
	raw string
}

// header reads a header and the name behind it.
func header(in *input) (rawEntry, error) {
	var e rawEntry
	var h [headerSize]byte
	n, err := io.ReadFull(in, h[:])
	switch {
	case bytes.HasPrefix(h[:n], []byte("070707")):
		return e, errors.New("incorrect cpio method used: use -H newc option")
	case err != nil:
		return e, fmt.Errorf("ends without a trailer: %w", err)
	case !bytes.HasPrefix(h[:], []byte("070701")) && !bytes.HasPrefix(h[:], []byte("070702")):
		return e, fmt.Errorf("header begins with %q in place of 070701", h[:6])
	}
	var f [13]uint32
	for i := range f {
		text := string(h[6+8*i : 14+8*i])
		v, err := strconv.ParseUint(text, 16, 32)
		if err != nil {
			return e, fmt.Errorf("header field %d is %q, not a number", i, text)
		}
		f[i] = uint32(v)
	}
	e.inode, e.Mode, e.UID, e.GID, e.links, e.Mtime = f[0], f[1], f[2], f[3], f[4], f[5]
	e.Size, e.devMajor, e.devMinor, e.RdevMajor, e.RdevMinor = int64(f[6]), f[7], f[8], f[9], f[10]
	if f[11] < 2 || f[11] > maxName {
		return e, fmt.Errorf("name of %d bytes", f[11])
	}
	name := make([]byte, f[11])
	if _, err := io.ReadFull(in, name); err != nil {
		return e, fmt.Errorf("ends within a name: %w", err)
	}
	if i := bytes.IndexByte(name, 0); i != len(name)-1 {
		return e, fmt.Errorf("name %q does not end where it says", name)
	}
	e.raw = string(name[:len(name)-1])
	return e, nil
}

// clean is a name without what could lead out of the root.
func clean(name string) (string, error) {
	c := strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("name %q leads upwards", name)
		}
	}
	if c == "" {
		c = "."
	}
	return c, nil
}
