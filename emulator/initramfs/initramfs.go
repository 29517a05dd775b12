// Package initramfs reads the archives that become a kernel's first root: cpio in the
// "newc" form, one or several behind each other, plain or compressed. The format is
// that of Linux's Documentation/driver-api/early-userspace/buffer-format.rst.
package initramfs

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
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

const (
	headerSize = 110
	maxName    = 4096
	trailer    = "TRAILER!!!"
	// maxLinks bounds what is remembered of files with several names.
	maxLinks = 1 << 20
	// maxDepth is how often an archive may be compressed in itself.
	maxDepth = 2
	// maxWindow bounds what a decompressor may keep in memory, in bytes.
	maxWindow = 256 << 20
)

// Read visits the entries of the archives in r, in their order. content holds the
// entry's Size bytes; what visit leaves unread is skipped. A hard link comes after the
// entry that it is a link to, and may bring content where that one brought none. An
// error of visit ends the reading and is returned.
func Read(r io.Reader, visit func(e Entry, content io.Reader) error) error {
	return read(r, visit, 0)
}

func read(r io.Reader, visit func(Entry, io.Reader) error, depth int) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		magic, err := skipZeros(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if bytes.HasPrefix(magic, []byte("070701")) || bytes.HasPrefix(magic, []byte("070702")) {
			if err := archive(in, visit); err != nil {
				return err
			}
			continue
		}
		if depth == maxDepth {
			return fmt.Errorf("compressed more than %d times", maxDepth)
		}
		plain, err := decompress(in, magic)
		if err != nil {
			return err
		}
		return read(plain, visit, depth+1)
	}
}

// skipZeros passes over the zeros between archives and shows the bytes behind them.
func skipZeros(in *bufio.Reader) ([]byte, error) {
	for {
		b, err := in.Peek(1)
		if err != nil {
			return nil, err
		}
		if b[0] != 0 {
			break
		}
		in.Discard(1)
	}
	magic, err := in.Peek(6)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ends in the middle of a magic number")
	}
	return magic, err
}

func decompress(in io.Reader, magic []byte) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		return gzip.NewReader(in)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(in), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xz.ReaderConfig{DictCap: 1 << 16}.NewReader(in)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow))
	}
	return nil, fmt.Errorf("neither cpio (newc) nor gzip, bzip2, xz or zstd: begins with %q", magic)
}

// archive reads one archive up to its trailer.
func archive(in *bufio.Reader, visit func(Entry, io.Reader) error) error {
	type file struct{ major, minor, inode uint32 }
	links := make(map[file]string)
	at := int64(0)
	for {
		e, err := header(in)
		if err != nil {
			return err
		}
		nameSize := int64(len(e.raw)) + 1
		if err := pad(in, &at, headerSize+nameSize); err != nil {
			return err
		}
		if e.raw == trailer {
			return nil
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
		content := &io.LimitedReader{R: in, N: e.Size}
		if err := visit(e.Entry, content); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if content.N > 0 {
			return fmt.Errorf("%s: ends after %d of %d bytes", e.Name, e.Size-content.N, e.Size)
		}
		if err := pad(in, &at, e.Size); err != nil {
			return err
		}
	}
}

type rawEntry struct {
	Entry
	raw string
}

// header reads a header and the name behind it.
func header(in *bufio.Reader) (rawEntry, error) {
	var e rawEntry
	var h [headerSize]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return e, fmt.Errorf("ends without a trailer: %w", err)
	}
	if m := string(h[:6]); m != "070701" && m != "070702" {
		return e, fmt.Errorf("header begins with %q in place of 070701", m)
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

// pad counts n bytes and reads on to the next multiple of four.
func pad(in *bufio.Reader, at *int64, n int64) error {
	*at += n
	fill := int(-*at & 3)
	*at += int64(fill)
	if _, err := in.Discard(fill); err != nil {
		return fmt.Errorf("ends within padding: %w", err)
	}
	return nil
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
