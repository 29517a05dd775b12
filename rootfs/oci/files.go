package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/umlkit/umlkit/rootfs/compression"
)

// files are the members of a layout or archive, by their slash-separated paths.
type files interface {
	// open gives a member, which is a regular file of that size. A missing one is
	// fs.ErrNotExist.
	open(name string) (r io.ReadCloser, size int64, err error)
	close() error
}

const (
	// documentMax bounds a manifest, an index or a configuration, in bytes: what
	// registries take.
	documentMax = 4 << 20

	// unpackedMax bounds what all layers of an image, or a packed archive, unpack to, in
	// bytes.
	unpackedMax = 256 << 30

	// membersMax bounds the members of an archive of an image.
	membersMax = 1 << 16
)

func openFiles(ctx context.Context, s *Source) (files, error) {
	if s.Path == "-" {
		return unpacked(ctx, s.Stdin)
	}
	// A FIFO must not hold the open up, and the end of a context not wait for one.
	f, err := os.OpenFile(s.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, bare(err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		f.Close()
		if s.Form == Docker {
			return nil, errors.New("a directory, where an archive of `docker save` is wanted: oci: reads a layout")
		}
		root, err := os.OpenRoot(s.Path)
		if err != nil {
			return nil, bare(err)
		}
		return directory{root}, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("neither a directory nor a regular file; a pipe is named -")
	}
	var head [6]byte
	n := 0
	if err == nil {
		n, err = f.ReadAt(head[:], 0)
	}
	if err != nil && err != io.EOF {
		f.Close()
		return nil, bare(err)
	}
	if compression.Detect(head[:n]) != "" {
		defer f.Close()
		return unpacked(ctx, f)
	}
	a, err := newArchive(ctx, f, info.Size())
	if err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

// bare is an error without the name that the message has already.
func bare(err error) error {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}

// directory is a layout as it lies on the host. No symbolic link leads out of it.
type directory struct{ root *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, bare(err))
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s: %w", name, bare(err))
	}
	return f, info.Size(), nil
}

func (d directory) close() error { return d.root.Close() }

// archive is a plain tar archive. Its members are found once.
type archive struct {
	file    *os.File
	members map[string]member
}

// member is where a file lies in the archive; one with a target is another name of
// that.
type member struct {
	at, size int64
	target   string
}

func newArchive(ctx context.Context, f *os.File, size int64) (*archive, error) {
	a := &archive{f, make(map[string]member)}
	in := io.NewSectionReader(f, 0, size)
	r := tar.NewReader(in)
	for count := 0; ; count++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := r.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil && count == 0 {
			return nil, errors.New("no tar archive, plain or packed by gzip, xz, zstd or bzip2")
		}
		if err != nil {
			return nil, fmt.Errorf("the archive after %d members: %w", count, err)
		}
		if count >= membersMax {
			return nil, fmt.Errorf("the archive has more than %d members", membersMax)
		}
		name := path.Clean("/" + hdr.Name)[1:]
		at, _ := in.Seek(0, io.SeekCurrent) // archive/tar reads headers and no further
		switch hdr.Typeflag {
		case tar.TypeReg:
			if hdr.PAXRecords["GNU.sparse.major"] != "" || hdr.PAXRecords["GNU.sparse.map"] != "" {
				return nil, fmt.Errorf("%.200q in the archive is sparse, which members of an image are not", hdr.Name)
			}
			if hdr.Size > size-at {
				return nil, fmt.Errorf("%.200q: the archive is cut short", hdr.Name)
			}
			a.members[name] = member{at: at, size: hdr.Size}
		case tar.TypeSymlink:
			a.members[name] = member{target: path.Join("/", path.Dir(name), hdr.Linkname)[1:]}
		case tar.TypeLink:
			a.members[name] = member{target: path.Clean("/" + hdr.Linkname)[1:]}
		}
	}
}

func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	m, ok := a.members[path.Clean(name)]
	for hops := 0; ok && m.target != ""; hops++ {
		if hops == 8 {
			return nil, 0, fmt.Errorf("%.200s: %w", name, unix.ELOOP)
		}
		m, ok = a.members[m.target]
	}
	if !ok {
		return nil, 0, fmt.Errorf("%.200s: %w in the archive", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.file, m.at, m.size)), m.size, nil
}

func (a *archive) close() error { return a.file.Close() }

// unpacked is an archive that can be read only once: it is unpacked into a file without
// a name, zeros as holes.
func unpacked(ctx context.Context, r io.Reader) (*archive, error) {
	f, err := os.CreateTemp("", "umlimg-*.tar")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	size, err := unpackInto(ctx, f, r)
	var a *archive
	if err == nil {
		a, err = newArchive(ctx, f, size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

func unpackInto(ctx context.Context, f *os.File, r io.Reader) (int64, error) {
	// The first bytes are read ahead, too: a pipe may never give one.
	packed := compression.Ahead(ctx, r)
	defer packed.Close()
	in, err := compression.NewReader(packed)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	buf, zeros, size := make([]byte, 64<<10), make([]byte, 64<<10), int64(0)
	for err == nil {
		n := 0
		for n < len(buf) && err == nil {
			var got int
			got, err = in.Read(buf[n:])
			n += got
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], size); err != nil {
				return 0, fmt.Errorf("unpack the archive into %s: %w", os.TempDir(), bare(err))
			}
		}
		if size += int64(n); size > unpackedMax {
			return 0, fmt.Errorf("the archive unpacks to more than %d GiB", int64(unpackedMax)>>30)
		}
	}
	if err != io.EOF {
		return 0, err
	}
	return size, f.Truncate(size)
}

// document reads a JSON document and holds it against its digest, where that is given.
func document(f files, b blob, into any) error {
	r, size, err := f.open(b.name)
	if err != nil {
		return err
	}
	defer r.Close()
	if b.size >= 0 && size != b.size {
		return fmt.Errorf("%s has %d bytes, not %d", b.name, size, b.size)
	}
	if size > documentMax {
		return fmt.Errorf("%s has %d bytes, the limit is %d", b.name, size, documentMax)
	}
	data, err := io.ReadAll(io.LimitReader(r, size))
	if err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	if b.digest.Hex != "" {
		sum, _, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			return err
		}
		if sum != b.digest {
			return fmt.Errorf("%s is damaged: its digest is %s", b.name, sum)
		}
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	return nil
}

// blobOf is a descriptor's blob.
func blobOf(d v1.Descriptor) (blob, error) {
	if d.Digest.Algorithm != "sha256" || strings.Trim(d.Digest.Hex, "0123456789abcdef") != "" || len(d.Digest.Hex) != 64 {
		return blob{}, fmt.Errorf("digest %.100q: sha256 is supported", d.Digest.String())
	}
	if d.Size < 0 {
		return blob{}, fmt.Errorf("%s of %d bytes", d.Digest, d.Size)
	}
	return blob{"blobs/sha256/" + d.Digest.Hex, d.Digest, d.Size}, nil
}
