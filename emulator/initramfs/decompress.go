package initramfs

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// maxWindow bounds what a decompressor may keep in memory, in bytes. It is what xz -9 and
// zstd --long ask for, and more than a kernel would give.
const maxWindow = 128 << 20

// stream is one compressed archive.
type stream struct {
	io.Reader
	// finish, when not nil, passes what is left of the stream once its data is read.
	finish func() error
}

func (s stream) end() error {
	if s.finish == nil {
		return nil
	}
	return s.finish()
}

// decompress begins to read the compressed archive that has those first bytes. Reading
// it ends with io.EOF at the stream's end; what follows stays in in.
func decompress(in *input, magic []byte) (stream, error) {
	has := func(s string) bool { return bytes.HasPrefix(magic, []byte(s)) }
	switch {
	case has("\x1f\x8b"), has("\x1f\x9e"):
		r, err := gzip.NewReader(in)
		if err != nil {
			return stream{}, fmt.Errorf("gzip: %w", err)
		}
		r.Multistream(false)
		return stream{Reader: named{"gzip", r}}, nil
	case has("BZh"):
		return stream{Reader: named{"bzip2", &loneBzip2{in: in, r: bzip2.NewReader(in)}}}, nil
	case has("\xfd7zXZ\x00"):
		return newXZ(in)
	case has("\x28\xb5\x2f\xfd"):
		return newZstd(in)
	case has("\x02\x21\x4c\x18"):
		return stream{Reader: named{"lz4", &legacyLZ4{in: in}}}, nil
	case has("\x5d\x00"):
		return newLZMA(in)
	case has("\x89LZO\x00"):
		return stream{}, errors.New("compression method lzo not configured: use gzip, bzip2, lzma, xz, lz4 or zstd")
	case has("\x04\x22\x4d\x18"):
		return stream{}, errors.New("a frame of lz4 is not what kernels read: use lz4 -l")
	}
	return stream{}, fmt.Errorf("invalid magic at start of compressed archive: %q", magic)
}

// named says in errors which decompressor fails.
type named struct {
	name string
	r    io.Reader
}

// Read implements io.Reader.
func (n named) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w", n.name, err)
	}
	return k, err
}

// loneBzip2 reads one stream. The decompressor looks for a second behind it, and has
// read two bytes of what is none.
type loneBzip2 struct {
	in   *input
	r    io.Reader
	done bool
}

// noSecond is the decompressor's error for bytes that are no second stream. TestBehind
// fails when an upgrade words it otherwise.
const noSecond = bzip2.StructuralError("bad magic value in continuation file")

// Read implements io.Reader.
func (l *loneBzip2) Read(p []byte) (int, error) {
	if l.done {
		return 0, io.EOF
	}
	n, err := l.r.Read(p)
	if err == noSecond {
		if err = l.in.back(2); err == nil {
			err = io.EOF
		}
	}
	l.done = err != nil
	return n, err
}

// newXZ reads one stream of the format of xz(1).
func newXZ(in *input) (stream, error) {
	f := &frame{in: in, step: (&xzSteps{}).streamHeader}
	r, err := xz.ReaderConfig{DictCap: lzma.MinDictCap, SingleStream: true}.NewReader(f)
	if err != nil {
		return stream{}, err
	}
	return stream{Reader: r, finish: f.finish}, nil
}

// newLZMA reads the format of lzma(1). Its end is a mark, or the size in its header.
func newLZMA(in *input) (stream, error) {
	head, err := in.peek(lzma.HeaderLen)
	if err == nil && len(head) < lzma.HeaderLen {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return stream{}, fmt.Errorf("lzma: %w", err)
	}
	if size := binary.LittleEndian.Uint32(head[1:]); size > maxWindow {
		return stream{}, fmt.Errorf("lzma: a dictionary of %d bytes; at most %d are read", size, maxWindow)
	}
	r, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(in)
	if err != nil {
		return stream{}, fmt.Errorf("lzma: %w", err)
	}
	return stream{Reader: named{"lzma", r}}, nil
}

// newZstd reads one frame of the format of zstd(1).
func newZstd(in *input) (stream, error) {
	f := &frame{in: in, step: (&zstdSteps{}).header}
	r, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return stream{}, fmt.Errorf("zstd: %w", err)
	}
	return stream{Reader: named{"zstd", r}, finish: func() error {
		r.Close()
		return f.finish()
	}}, nil
}
