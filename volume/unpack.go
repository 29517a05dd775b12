package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
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
		return unpackLZ4, nil
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

var errLZ4 = errors.New("lz4: the block makes no sense")

// unpackLZ4 reads LZ4's block format: literals, then a copy of what was before, and so on.
func unpackLZ4(in []byte, most int) ([]byte, error) {
	out := make([]byte, 0, most)
	length := func(n int) (int, bool) {
		if n != 15 {
			return n, true
		}
		for len(in) > 0 {
			c := in[0]
			in = in[1:]
			if n += int(c); n > most {
				return 0, false
			}
			if c != 255 {
				return n, true
			}
		}
		return 0, false
	}
	for len(in) > 0 {
		token := in[0]
		in = in[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(in) || len(out)+n > most {
			return nil, errLZ4
		}
		out, in = append(out, in[:n]...), in[n:]
		if len(in) == 0 {
			return out, nil
		}
		if len(in) < 2 {
			return nil, errLZ4
		}
		back := int(in[0]) | int(in[1])<<8
		in = in[2:]
		if n, ok = length(int(token & 15)); !ok {
			return nil, errLZ4
		}
		n += 4
		if back == 0 || back > len(out) || len(out)+n > most {
			return nil, errLZ4
		}
		for range n {
			out = append(out, out[len(out)-back])
		}
	}
	return out, nil
}
