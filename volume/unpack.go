package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/umlkit/umlkit/lz4"
)

// unpacker unpacks a block of at most most bytes.
type unpacker func(in []byte, most int) ([]byte, error)

// newUnpacker is the one for a squashfs with that number in its superblock.
func newUnpacker(id uint16) (unpacker, error) {
	switch id {
	case 1:
		return func(in []byte, most int) ([]byte, error) {
			r, err := zlib.NewReader(bytes.NewReader(in))
			if err != nil {
				return nil, err
			}
			return readMost(r, most)
		}, nil
	case 4:
		return unpackXZ, nil
	case 5:
		return func(in []byte, most int) ([]byte, error) { return lz4.Unpack(make([]byte, 0, most), in, most) }, nil
	case 6:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(2<<20))
		if err != nil {
			return nil, err
		}
		return func(in []byte, most int) ([]byte, error) {
			out, err := d.DecodeAll(in, make([]byte, 0, most))
			if err == nil && len(out) > most {
				err = errTooLong
			}
			return out, err
		}, nil
	}
	names := map[uint16]string{2: "lzma", 3: "lzo"}
	if name := names[id]; name != "" {
		return nil, fmt.Errorf("squashfs: packed by %s: gzip, xz, lz4 and zstd can be read", name)
	}
	return nil, corrupt("squashfs", "packed by %d", id)
}

var errTooLong = errors.New("it unpacks to more than a block")

// readMost reads all of a block, which must not be longer than it may.
func readMost(r io.Reader, most int) ([]byte, error) {
	out := make([]byte, most+1)
	n, err := io.ReadFull(r, out)
	switch {
	case err == nil:
		return nil, errTooLong
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return nil, err
	}
	return out[:n], nil
}

// dictMax bounds the dictionary that an xz stream may ask for, in bytes: a block needs no
// more than its own size.
const dictMax = 8 << 20

func unpackXZ(in []byte, most int) ([]byte, error) {
	// Behind the stream's header of 12 bytes stands a block's: its size, flags, and the
	// filter 0x21 with one byte that gives the dictionary's size.
	if len(in) < 24 {
		return nil, io.ErrUnexpectedEOF
	}
	at := 14
	for _, flag := range []byte{0x40, 0x80} { // sizes of variable length
		if in[13]&flag != 0 {
			for at < len(in)-4 && in[at]&0x80 != 0 {
				at++
			}
			at++
		}
	}
	if at+3 > len(in) || in[at] != 0x21 || in[at+1] != 1 {
		return nil, errors.New("xz with filters for machine code is not read")
	}
	if bits := in[at+2]; bits > 40 || (2|uint64(bits&1))<<(bits/2+11) > dictMax {
		return nil, fmt.Errorf("xz with a dictionary of more than %d bytes", dictMax)
	}
	r, err := xz.ReaderConfig{SingleStream: true}.NewReader(bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	return readMost(r, most)
}
