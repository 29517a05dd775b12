// Package compression reads what gzip, xz, zstd and bzip2 packed. Which of them did is
// told by the first bytes, never by a name.
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// magics are how packed data begins.
var magics = []struct {
	format string
	magic  []byte
}{
	{"gzip", []byte{0x1f, 0x8b}},
	{"xz", []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{"bzip2", []byte("BZh")},
}

// Detect names the format of data by how it begins, "" for what is not packed. Six
// bytes are enough.
func Detect(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.format
		}
	}
	return ""
}

// windowMax bounds the memory that a zstd stream may ask for, in bytes: what
// `zstd --long=28` packs can be read.
const windowMax = 256 << 20

// NewReader unpacks r, or passes it through when it is not packed. Several streams one
// after another count as one. A fault of the data is an error of Read.
func NewReader(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	format := Detect(head)
	var unpacked io.Reader
	switch format {
	case "":
		return io.NopCloser(br), nil
	case "gzip":
		unpacked, err = gzip.NewReader(br)
	case "xz":
		unpacked, err = xz.NewReader(br)
	case "bzip2":
		unpacked = bzip2.NewReader(br)
	case "zstd":
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(windowMax))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &reader{d, format, d.Close}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", format, err)
	}
	return &reader{unpacked, format, func() {}}, nil
}

// reader says in its errors what it was unpacking.
type reader struct {
	r      io.Reader
	format string
	close  func()
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w", r.format, err)
	}
	return n, err
}

func (r *reader) Close() error {
	r.close()
	return nil
}
