package initramfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// lz4Block is how much a block of the legacy format unpacks to at most, in bytes.
const lz4Block = 8 << 20

var errLZ4 = errors.New("a block makes no sense")

// legacyLZ4 reads what lz4 -l writes, the one format of lz4 that kernels read: a magic
// number, and blocks behind their sizes. The first that is shorter than the others may be
// is the last.
type legacyLZ4 struct {
	in    *input
	began bool
	last  bool
	out   []byte // unpacked
	at    int    // how much of it was read
	block []byte // packed
}

// Read implements io.Reader.
func (l *legacyLZ4) Read(p []byte) (int, error) {
	for l.at == len(l.out) {
		if l.last {
			return 0, io.EOF
		}
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.out[l.at:])
	l.at += n
	return n, nil
}

func (l *legacyLZ4) next() error {
	if !l.began {
		l.began = true
		if _, err := io.CopyN(io.Discard, l.in, 4); err != nil {
			return err
		}
	}
	head, err := l.in.peek(4)
	if len(head) < 4 {
		// Nothing, or the zeros between archives.
		l.last = true
		if len(head) == 0 && !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	}
	size := binary.LittleEndian.Uint32(head)
	if size == 0 || size > lz4Block+lz4Block/255+16 {
		// No size: what comes behind the archive.
		l.last = true
		return nil
	}
	if _, err := io.CopyN(io.Discard, l.in, 4); err != nil {
		return err
	}
	if l.block == nil {
		l.block = make([]byte, lz4Block+lz4Block/255+16)
	}
	if _, err := io.ReadFull(l.in, l.block[:size]); err != nil {
		return fmt.Errorf("a block of %d bytes: %w", size, err)
	}
	l.at = 0
	l.out, err = unpackLZ4(l.out[:0], l.block[:size])
	l.last = len(l.out) < lz4Block
	return err
}

// unpackLZ4 appends what a block unpacks to: literals, then a copy of what was before,
// and so on.
func unpackLZ4(out, in []byte) ([]byte, error) {
	length := func(n int) (int, bool) {
		if n != 15 {
			return n, true
		}
		for len(in) > 0 {
			c := in[0]
			in = in[1:]
			if n += int(c); n > lz4Block {
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
		if !ok || n > len(in) || len(out)+n > lz4Block {
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
		if back == 0 || back > len(out) || len(out)+n > lz4Block {
			return nil, errLZ4
		}
		for range n {
			out = append(out, out[len(out)-back])
		}
	}
	return out, nil
}
