package mkfs

import "fmt"

// outputBuffer is how much metadata is written at once.
const outputBuffer = 256 << 10

// output gathers blocks that follow each other and writes them together.
type output struct {
	b     *Builder
	buf   []byte
	start uint64 // the first block in buf
	used  int    // bytes of buf
}

func (o *output) init(b *Builder) {
	o.b = b
	o.buf = make([]byte, outputBuffer)
}

// block is block nr of the device, all zeros, to be filled in. It is valid until the next call.
func (o *output) block(nr uint64) ([]byte, error) {
	size := o.b.o.blockSize
	if o.used > 0 && (nr != o.start+uint64(o.used/size) || o.used == len(o.buf)) {
		if err := o.flush(); err != nil {
			return nil, err
		}
	}
	if o.used == 0 {
		o.start = nr
	}
	block := o.buf[o.used : o.used+size : o.used+size]
	clear(block)
	o.used += size
	return block, nil
}

func (o *output) flush() error {
	if o.used == 0 {
		return nil
	}
	at := int64(o.start << o.b.o.blockBits)
	if _, err := o.b.dev.WriteAt(o.buf[:o.used], at); err != nil {
		return fmt.Errorf("write ext4 metadata, %d bytes at %d: %w", o.used, at, err)
	}
	o.b.written += int64(o.used)
	o.used = 0
	return nil
}

// block is block nr, to be filled in before the next one is asked for.
func (b *Builder) block(nr uint64) ([]byte, error) { return b.out.block(nr) }

// newBlock is a block that was free.
func (b *Builder) newBlock() (uint64, []byte, error) {
	if b.s.left == 0 {
		return 0, nil, b.noSpace()
	}
	nr := b.s.one()
	block, err := b.block(nr)
	return nr, block, err
}
