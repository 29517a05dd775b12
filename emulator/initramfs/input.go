package initramfs

import (
	"errors"
	"io"
)

// input is a reader that decompressors read to the byte: what comes behind a compressed
// archive stays for the next. The last bytes can be given back.
type input struct {
	r    io.Reader
	buf  []byte
	at   int // what is read next
	fail error
}

// keep is how many bytes can be given back.
const keep = 4

// fill reads until n bytes are there, or none come any more.
func (in *input) fill(n int) {
	if len(in.buf)-in.at >= n {
		return
	}
	if drop := in.at - keep; drop > 0 {
		in.buf = in.buf[:copy(in.buf, in.buf[drop:])]
		in.at -= drop
	}
	if cap(in.buf) == 0 {
		in.buf = make([]byte, 0, 64<<10)
	}
	for in.fail == nil && len(in.buf)-in.at < n {
		m, err := in.r.Read(in.buf[len(in.buf):cap(in.buf)])
		in.buf = in.buf[:len(in.buf)+m]
		in.fail = err
	}
}

// peek shows the next n bytes, fewer before the end, without reading them.
func (in *input) peek(n int) ([]byte, error) {
	in.fill(n)
	rest := in.buf[in.at:]
	if len(rest) == 0 {
		return nil, in.fail
	}
	return rest[:min(n, len(rest))], nil
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	in.fill(1)
	if in.at == len(in.buf) {
		return 0, in.fail
	}
	n := copy(p, in.buf[in.at:])
	in.at += n
	return n, nil
}

// ReadByte implements io.ByteReader.
func (in *input) ReadByte() (byte, error) {
	in.fill(1)
	if in.at == len(in.buf) {
		return 0, in.fail
	}
	in.at++
	return in.buf[in.at-1], nil
}

// back gives the last n bytes back.
func (in *input) back(n int) error {
	if n > keep || n > in.at {
		return errors.New("too much is given back")
	}
	in.at -= n
	return nil
}
