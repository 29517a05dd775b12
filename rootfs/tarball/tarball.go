// Package tarball reads a tar archive as the source of an image: ustar, pax and GNU's
// forms, with extended attributes, access control lists, holes and times to the
// nanosecond, plain or packed by gzip, xz, zstd or bzip2. Owners are those of the
// archive by number; nothing of it needs privilege.
//
// A plain archive in a file is read once for its headers, and content is copied from it
// when the image is written. Everything else is read once from its beginning to its
// end, and content goes to the image as it comes.
//
// Names stay inside the tree: a leading slash is dropped, symbolic links on the way are
// followed inside the tree as chroot(2) would, and a name that holds ".." is refused. A
// later entry of the same name replaces an earlier one.
package tarball

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/compression"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Source is a tar archive. It is used once.
type Source struct {
	// Path is the archive, "-" for Stdin.
	Path  string
	Stdin io.Reader

	file *os.File
	size int64 // of file, 0 for what has no end known before
	read atomic.Int64
	acls []namedACL

	entries int
	layer   *layer   // nil but for a container's
	unpack  *Package // nil but for a package's
}

// Progress is how many bytes of the archive, as it is packed, were read, and how many
// there are, 0 when that is not known. Any goroutine may call it.
func (s *Source) Progress() (done, total int64) { return s.read.Load(), s.size }

// counted tells how much was read.
type counted struct {
	r    io.Reader
	read *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// entriesMax bounds how many entries an archive may have; each takes some hundred bytes
// of memory, and a packed archive can be all headers.
const entriesMax = 1 << 24

// String names the source in messages.
func (s *Source) String() string {
	if s.Path == "-" {
		return "standard input"
	}
	return s.Path
}

// Fill reads the archive into the tree. Contents of a plain archive can be read until
// Close.
func (s *Source) Fill(ctx context.Context, t *tree.Tree, store tree.Store) error {
	if s.Path == "-" {
		return s.fillStream(ctx, t, store, s.Stdin)
	}
	f, err := unlessEnded(ctx, func() (*os.File, error) { return os.Open(s.Path) })
	if err != nil {
		return err
	}
	s.file = f
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &fs.PathError{Op: "read", Path: s.Path, Err: unix.EISDIR}
	}
	if !info.Mode().IsRegular() {
		return s.fillStream(ctx, t, store, f)
	}
	var head [6]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	s.size = info.Size()
	if compression.Detect(head[:n]) != "" {
		return s.fillStream(ctx, t, store, f)
	}
	return s.fill(ctx, t, nil, &cursor{r: f, size: s.size})
}

// Close lets go of the archive.
func (s *Source) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// unlessEnded does what may wait for ever, for the other side of a pipe: when the
// context ends it is left to itself.
func unlessEnded[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// fillStream reads what can be read only once.
func (s *Source) fillStream(ctx context.Context, t *tree.Tree, store tree.Store, r io.Reader) error {
	unpacked, err := unlessEnded(ctx, func() (io.ReadCloser, error) {
		return compression.NewReader(counted{r, &s.read})
	})
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	ahead := compression.Ahead(ctx, unpacked)
	defer func() {
		ahead.Close()
		if ctx.Err() == nil { // else someone may still be reading it
			unpacked.Close()
		}
	}()
	in := &stream{r: ahead}
	if err := s.fill(ctx, t, store, in); err != nil {
		return err
	}
	// The end of a packed stream says whether all of it was sound. Archives are padded
	// to some KiB; what is longer is none of ours.
	if _, err := io.Copy(io.Discard, io.LimitReader(ahead, 16<<20)); err != nil {
		return fmt.Errorf("%s: after the last entry: %w", s, err)
	}
	return nil
}

// input is an archive that is read from its beginning to its end.
type input interface {
	io.Reader

	// offset is where in the (unpacked) archive it stands.
	offset() int64

	// skip goes on by n bytes. The end of the archive may lie in the last slack of them.
	skip(n, slack int64) error
}

func (s *Source) fill(ctx context.Context, t *tree.Tree, store tree.Store, in input) error {
	first := s.entries
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := in.offset()
		// A reader for each entry: content is taken past it, at its own offset.
		rec := &recorder{r: in}
		hdr, err := tar.NewReader(rec).Next()
		if err == io.EOF {
			if s.entries == 0 && s.layer == nil && s.unpack == nil {
				return fmt.Errorf("%s holds no tar archive, or an empty one", s)
			}
			return s.finish(t)
		}
		if err != nil {
			if s.entries == first && (errors.Is(err, tar.ErrHeader) || err == io.ErrUnexpectedEOF) {
				return fmt.Errorf("%s is no tar archive, plain or packed by gzip, xz, zstd or bzip2", s)
			}
			return fmt.Errorf("%s: header at byte %d: %w", s, at, whole(err))
		}
		if s.entries++; s.entries > entriesMax {
			return fmt.Errorf("%s has more than %d entries", s, entriesMax)
		}
		if err := s.entry(t, store, in, hdr, rec.seen); err != nil {
			return fmt.Errorf("%s: %.200q at byte %d: %w", s, hdr.Name, at, whole(err))
		}
	}
}

// whole says of an archive that ends too early that it does.
func whole(err error) error {
	if err == io.ErrUnexpectedEOF {
		return errors.New("the archive is cut short")
	}
	return err
}

// sizeMax is the largest file of ext4 with blocks of 4 KiB, in bytes.
const sizeMax = 16 << 40

// headersMax bounds the headers of one entry, extended ones included, in bytes.
const headersMax = 8 << 20

// recorder keeps the headers that are read through it.
type recorder struct {
	r    io.Reader
	seen []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.seen = append(r.seen, p[:n]...); len(r.seen) > headersMax {
		return n, fmt.Errorf("headers of more than %d bytes", headersMax)
	}
	return n, err
}

// entry takes one entry and its content. The input stands after the headers.
func (s *Source) entry(t *tree.Tree, store tree.Store, in input, hdr *tar.Header, headers []byte) error {
	if hdr.Size < 0 || hdr.Size > sizeMax {
		return fmt.Errorf("a file of %d bytes: ext4 holds at most %d", hdr.Size, int64(sizeMax))
	}
	if s.layer != nil {
		hides, err := s.layer.hide(t, hdr)
		if err != nil {
			return err
		}
		if hides {
			return skipContent(in, hdr.Size)
		}
	}
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader:
		// Its records were read as its content is, without what pads them.
		pad := -in.offset() & (blockSize - 1)
		return errors.Join(checkGlobal(hdr), in.skip(pad, pad))
	case 'V': // GNU's volume label
		return nil
	case 'D': // GNU's directory with a list of names as its content
		hdr.Typeflag = tar.TypeDir
		return errors.Join(s.put(t, hdr, nil), skipContent(in, hdr.Size))
	case 'M', 'N':
		return fmt.Errorf("entries of type %q (parts of GNU archives in several volumes, long names of old ones) are not supported", hdr.Typeflag)
	case tar.TypeLink:
		return s.link(t, hdr)
	}
	n, err := s.node(hdr)
	if err != nil {
		return err
	}
	if !n.IsRegular() {
		return s.put(t, hdr, n)
	}
	if err := s.content(store, in, hdr, headers, n); err != nil {
		return err
	}
	return s.put(t, hdr, n)
}

// content finds the data of a regular file, or stores it.
func (s *Source) content(store tree.Store, in input, hdr *tar.Header, headers []byte, n *tree.Node) error {
	runs, sparse, err := sparseRuns(hdr, headers)
	if err != nil {
		return err
	}
	n.Size = hdr.Size
	packed := hdr.Size // bytes of data in the archive
	if sparse {
		packed = 0
		for _, r := range runs {
			packed += r.Len
		}
		if err := tree.CheckRegions(runs, n.Size); err != nil {
			return err
		}
		n.Data = append([]tree.Region{}, runs...)
	}
	if n.Size == 0 {
		n.Data = nil
		return nil
	}
	at := in.offset()
	switch {
	case packed == 0:
	case store == nil:
		n.Content = &section{s: s, at: at, node: n}
		if err := in.skip(packed, 0); err != nil {
			return err
		}
	default:
		data := io.LimitReader(in, packed)
		if n.Content, err = store.Put(n.Size, n.Data, data); err != nil {
			return err
		}
	}
	// To the next header, also past what the store did not want.
	end := at + (packed+blockSize-1)/blockSize*blockSize
	return in.skip(end-in.offset(), end-at-packed)
}

func skipContent(in input, n int64) error {
	padded := (n + blockSize - 1) / blockSize * blockSize
	return in.skip(padded, padded-n)
}

const blockSize = 512

// section is the content of a file in a plain archive: its runs of data lie one after
// another there.
type section struct {
	s    *Source
	at   int64
	node *tree.Node
}

// Open implements tree.Content.
func (c *section) Open() (tree.Reader, error) {
	runs := c.node.Data
	if runs == nil {
		runs = []tree.Region{{Off: 0, Len: c.node.Size}}
	}
	return sectionReader{c, runs}, nil
}

type sectionReader struct {
	c    *section
	runs []tree.Region
}

// ReadAt implements tree.Reader.
func (r sectionReader) ReadAt(p []byte, off int64) (int, error) {
	at := r.c.at
	done := int64(0)
	end := off + int64(len(p))
	for _, run := range r.runs {
		from, to := max(off+done, run.Off), min(end, run.Off+run.Len)
		if from < to {
			clear(p[done : from-off])
			if n, err := r.c.s.file.ReadAt(p[from-off:to-off], at+(from-run.Off)); int64(n) < to-from {
				if err == io.EOF {
					err = fmt.Errorf("%s: the archive was cut short while it was read", r.c.s)
				}
				return int(from-off) + n, err
			}
			done = to - off
		}
		at += run.Len
	}
	clear(p[done:])
	return len(p), nil
}

// Host implements tree.Reader.
func (r sectionReader) Host(want tree.Region) (*os.File, int64) {
	at := r.c.at
	for _, run := range r.runs {
		if want.Off >= run.Off && want.Off+want.Len <= run.Off+run.Len {
			return r.c.s.file, at + (want.Off - run.Off)
		}
		at += run.Len
	}
	return nil, 0
}

// Close implements tree.Reader.
func (sectionReader) Close() error { return nil }

// cursor is a plain archive in a file, read through a window.
type cursor struct {
	r    io.ReaderAt
	size int64
	pos  int64
	buf  []byte
	at   int64 // where buf lies
	mem  [64 << 10]byte
}

func (c *cursor) offset() int64 { return c.pos }

func (c *cursor) Read(p []byte) (int, error) {
	if c.pos >= c.size {
		return 0, io.EOF
	}
	if c.pos < c.at || c.pos >= c.at+int64(len(c.buf)) {
		n, err := c.r.ReadAt(c.mem[:], c.pos)
		if n == 0 {
			return 0, err
		}
		c.buf, c.at = c.mem[:n], c.pos
	}
	n := copy(p, c.buf[c.pos-c.at:])
	c.pos += int64(n)
	return n, nil
}

func (c *cursor) skip(n, slack int64) error {
	if n > c.size-c.pos {
		if n-(c.size-c.pos) <= slack {
			c.pos = c.size
			return nil
		}
		return io.ErrUnexpectedEOF
	}
	c.pos += n
	return nil
}

// stream is an archive that comes as it comes.
type stream struct {
	r   io.Reader
	pos int64
}

func (s *stream) offset() int64 { return s.pos }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.pos += int64(n)
	return n, err
}

func (s *stream) skip(n, slack int64) error {
	got, err := io.CopyN(io.Discard, s, n)
	if err == io.EOF {
		if n-got <= slack {
			return nil
		}
		err = io.ErrUnexpectedEOF
	}
	return err
}

// node makes a node of a header, without its content.
func (s *Source) node(hdr *tar.Header) (*tree.Node, error) {
	n := &tree.Node{Mode: uint32(hdr.Mode) & 0o7777, Mtime: hdr.ModTime, Atime: hdr.AccessTime}
	if n.Atime.IsZero() {
		n.Atime = n.Mtime
	}
	if n.Mtime.IsZero() { // not the build's time: the archive says year 1
		n.Mtime = time.Unix(0, 0)
	}
	const idMax = 1<<32 - 2 // the last number is nobody's: chown takes it as "leave it"
	if hdr.Uid < 0 || hdr.Uid > idMax || hdr.Gid < 0 || hdr.Gid > idMax {
		return nil, fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	n.UID, n.GID = uint32(hdr.Uid), uint32(hdr.Gid)
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= unix.S_IFREG
	case tar.TypeDir:
		n.Mode |= unix.S_IFDIR
	case tar.TypeFifo:
		n.Mode |= unix.S_IFIFO
	case tar.TypeSymlink:
		n.Mode = unix.S_IFLNK | 0o777
		n.Target = hdr.Linkname
		if n.Target == "" || len(n.Target) > tree.PathMax || bytes.ContainsRune([]byte(n.Target), 0) {
			return nil, fmt.Errorf("symbolic link to %.80q, of %d bytes", n.Target, len(n.Target))
		}
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= unix.S_IFCHR
		if hdr.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^unix.S_IFMT | unix.S_IFBLK
		}
		const majors, minors = 1 << 12, 1 << 20
		if hdr.Devmajor < 0 || hdr.Devmajor >= majors || hdr.Devminor < 0 || hdr.Devminor >= minors {
			return nil, fmt.Errorf("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
		}
		n.Major, n.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	default:
		return nil, fmt.Errorf("entries of type %q are not supported", hdr.Typeflag)
	}
	var err error
	n.Xattrs, err = s.xattrs(hdr, n)
	return n, err
}

// put gives a node its name. A nil node is an empty directory with the header's
// attributes.
func (s *Source) put(t *tree.Tree, hdr *tar.Header, n *tree.Node) error {
	if s.unpack != nil {
		return s.unpack.put(t, hdr, n)
	}
	if n == nil {
		var err error
		if n, err = s.node(hdr); err != nil {
			return err
		}
	}
	path, err := Clean(hdr.Name)
	if err != nil {
		return err
	}
	if path == "" {
		if !n.IsDir() {
			return errors.New("the root is no directory")
		}
		takeAttributes(t.Root, n)
		return nil
	}
	if n.IsDir() {
		if old, err := t.Lookup(path, false); err == nil && old.IsDir() {
			takeAttributes(old, n)
			return s.layer.mark(t, path)
		}
	}
	if err := t.Put(path, n); err != nil {
		return err
	}
	return s.layer.mark(t, path)
}

// takeAttributes gives a directory the attributes of another and leaves what is in it.
func takeAttributes(dir, from *tree.Node) {
	dir.Mode, dir.UID, dir.GID = from.Mode, from.UID, from.GID
	dir.Atime, dir.Mtime, dir.Xattrs = from.Atime, from.Mtime, from.Xattrs
}

// link gives a file that came before one more name.
func (s *Source) link(t *tree.Tree, hdr *tar.Header) error {
	if s.unpack != nil {
		return s.unpack.link(t, hdr)
	}
	path, err := Clean(hdr.Name)
	if err != nil {
		return err
	}
	to, err := Clean(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	n, err := t.Lookup(to, false)
	if err != nil {
		return fmt.Errorf("hard link to what did not come before: %w", err)
	}
	if n.IsDir() {
		return fmt.Errorf("hard link to the directory %q", to)
	}
	if same, err := t.Lookup(path, false); err == nil && same == n {
		return s.layer.mark(t, path) // a link to itself, or the same link again
	}
	if err := t.Put(path, n); err != nil {
		return err
	}
	return s.layer.mark(t, path)
}
