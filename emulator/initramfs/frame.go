package initramfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// frame passes one compressed stream to a decompressor that reads ahead, and not a byte
// of what follows. It walks over the pieces that the format has, and does not unpack them.
type frame struct {
	in   *input
	head []byte // read from in, to be passed
	raw  int64  // to be passed after it
	// step reads the head of the next piece and sets what comes after it, nil at the end.
	step step
	err  error
}

type step func(*frame) (step, error)

// Read implements io.Reader.
func (f *frame) Read(p []byte) (int, error) {
	for f.err == nil && len(f.head) == 0 && f.raw == 0 {
		if f.step == nil {
			return 0, io.EOF
		}
		if f.step, f.err = f.step(f); errors.Is(f.err, io.EOF) {
			f.err = io.ErrUnexpectedEOF
		}
	}
	if f.err != nil && f.err != io.ErrUnexpectedEOF {
		return 0, f.err
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.raw)])
	f.raw -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// finish passes what a decompressor left.
func (f *frame) finish() error {
	_, err := io.Copy(io.Discard, f)
	return err
}

// take reads n more bytes of the head, and gives them.
func (f *frame) take(n int) ([]byte, error) {
	old := len(f.head)
	f.head = append(f.head, make([]byte, n)...)
	got, err := io.ReadFull(f.in, f.head[old:])
	f.head = f.head[:old+got]
	return f.head[old:], err
}

// zstdSteps are those of RFC 8878.
type zstdSteps struct{ checksum bool }

func (z *zstdSteps) header(f *frame) (step, error) {
	b, err := f.take(5)
	if err != nil {
		return nil, err
	}
	flags := b[4]
	single := flags>>5&1 == 1
	z.checksum = flags>>2&1 == 1
	n := []int{0, 1, 2, 4}[flags&3] + []int{0, 2, 4, 8}[flags>>6]
	if single && flags>>6 == 0 || !single {
		n++ // the size of the content in a byte, or the window's
	}
	_, err = f.take(n)
	return z.block, err
}

func (z *zstdSteps) block(f *frame) (step, error) {
	b, err := f.take(3)
	if err != nil {
		return nil, err
	}
	head := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	f.raw = int64(head >> 3)
	if head>>1&3 == 1 { // one byte that is repeated
		f.raw = 1
	}
	if head&1 == 0 {
		return z.block, nil
	}
	if z.checksum {
		f.raw += 4
	}
	return nil, nil
}

// xzSteps are those of the .xz file format, with the one filter LZMA2.
type xzSteps struct {
	check int64 // size of a block's check
	size  int64 // of the block or the index until now
}

func (x *xzSteps) streamHeader(f *frame) (step, error) {
	b, err := f.take(12)
	if err != nil {
		return nil, err
	}
	// Sizes come in groups of three kinds of check.
	x.check = []int64{0, 4, 8, 16, 32, 64}[(int(b[7]&15)+2)/3]
	return x.blockHeader, nil
}

var errFilter = errors.New("xz: with filters for machine code: only those without are read")

func (x *xzSteps) blockHeader(f *frame) (step, error) {
	b, err := f.take(1)
	if err != nil {
		return nil, err
	}
	if b[0] == 0 {
		return x.index, nil
	}
	size := (int(b[0]) + 1) * 4
	if b, err = f.take(size - 1); err != nil {
		return nil, err
	}
	flags, rest := b[0], b[1:]
	for _, flag := range []byte{0x40, 0x80} { // sizes before and after
		if flags&flag != 0 {
			_, n := binary.Uvarint(rest)
			if n <= 0 {
				return nil, errors.New("xz: a block's header makes no sense")
			}
			rest = rest[n:]
		}
	}
	if flags&3 != 0 || len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 {
		return nil, errFilter
	}
	bits := rest[2]
	if dict := (2 | uint64(bits&1)) << (bits/2 + 11); bits > 40 || dict > maxWindow {
		return nil, fmt.Errorf("xz: a dictionary of more than %d bytes", maxWindow)
	}
	x.size = 0
	return x.chunk, nil
}

// chunk is a part of a block as LZMA2 has it.
func (x *xzSteps) chunk(f *frame) (step, error) {
	b, err := f.take(1)
	if err != nil {
		return nil, err
	}
	x.size++
	switch control := b[0]; {
	case control == 0:
		f.raw = -x.size&3 + x.check
		return x.blockHeader, nil
	case control >= 0x80:
		n := 4
		if control >= 0xc0 {
			n = 5 // properties
		}
		if b, err = f.take(n); err != nil {
			return nil, err
		}
		f.raw = int64(binary.BigEndian.Uint16(b[2:])) + 1
		x.size += int64(n)
	case control <= 2:
		if b, err = f.take(2); err != nil {
			return nil, err
		}
		f.raw = int64(binary.BigEndian.Uint16(b)) + 1
		x.size += 2
	default:
		return nil, errors.New("xz: a chunk makes no sense")
	}
	x.size += f.raw
	return x.chunk, nil
}

// maxRecords bounds the blocks of a stream.
const maxRecords = 1 << 20

// index is the list of blocks, with the stream's footer.
func (x *xzSteps) index(f *frame) (step, error) {
	x.size = 1
	records, err := x.number(f)
	if err != nil {
		return nil, err
	}
	if records > maxRecords {
		return nil, fmt.Errorf("xz: more than %d blocks", maxRecords)
	}
	for range 2 * records {
		if _, err := x.number(f); err != nil {
			return nil, err
		}
	}
	const checksum, footer = 4, 12
	f.raw = -x.size&3 + checksum + footer
	return nil, nil
}

func (x *xzSteps) number(f *frame) (uint64, error) {
	var n uint64
	for shift := 0; shift < 63; shift += 7 {
		b, err := f.take(1)
		if err != nil {
			return 0, err
		}
		x.size++
		n |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return n, nil
		}
	}
	return 0, errors.New("xz: a number in the index makes no sense")
}
