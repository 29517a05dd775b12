package initramfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/umlkit/umlkit/lz4"
)

// lz4Block is how much a block of the legacy format unpacks to at most, in bytes.
const lz4Block = 8 << 20

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
	l.out, err = lz4.Unpack(l.out[:0], l.block[:size], lz4Block)
	l.last = len(l.out) < lz4Block
	return err
}
