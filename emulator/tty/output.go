package tty

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/usermem"
)

const (
	// window is how much output of programs waits for the line, in bytes.
	window = 128 << 10
	// writeStep is how much of a write is processed at once.
	writeStep = 16 << 10
	tabWidth  = 8
)

// write takes output of a program. The Sentry's discipline would take it byte by byte at
// some 20 MB/s, so output, unlike input, is processed here and goes straight to the
// line; what the discipline echoes joins it in order. It fails with ErrWouldBlock when
// nothing more can wait.
func (p *pump) write(ctx context.Context, src usermem.IOSequence, modes *linux.KernelTermios) (int64, error) {
	p.gather.Lock()
	p.collect(p.term.discipline)
	var done int64
	var err error
	for src.NumBytes() > 0 {
		room := window - len(p.pending)
		if room <= 0 {
			err = linuxerr.ErrWouldBlock
			break
		}
		step := int64(min(room, writeStep))
		if p.step == nil {
			p.step = make([]byte, writeStep)
		}
		var n int
		n, err = src.TakeFirst64(step).CopyIn(ctx, p.step[:min(step, src.NumBytes())])
		p.pending = p.process(p.pending, p.step[:n], modes)
		done += int64(n)
		src = src.DropFirst(n)
		if err != nil {
			break
		}
	}
	p.gather.Unlock()
	if done > 0 {
		p.wake()
		return done, nil
	}
	return 0, err
}

// hasRoom says that write would take something.
func (p *pump) hasRoom() bool {
	p.gather.Lock()
	defer p.gather.Unlock()
	return len(p.pending) < window
}

// drop forgets output of programs that has not reached the line: all that came after the
// kernel's last line.
func (p *pump) drop() {
	p.gather.Lock()
	p.pending = p.pending[:p.kept]
	p.gather.Unlock()
	p.moved()
}

// process appends b to dst as the modes of output say, and follows the cursor.
//
// Precondition: p.gather is held.
func (p *pump) process(dst, b []byte, modes *linux.KernelTermios) []byte {
	if !modes.OEnabled(linux.OPOST) {
		return append(dst, b...)
	}
	if modes.OutputFlags&(linux.OPOST|linux.OCRNL|linux.ONOCR|linux.ONLRET|linux.OLCUC|linux.TABDLY) == linux.OPOST {
		return p.newlines(dst, b, modes.OEnabled(linux.ONLCR))
	}
	for _, c := range b {
		switch {
		case c == '\r' && modes.OEnabled(linux.ONOCR) && p.column == 0:
			continue
		case c == '\r' && modes.OEnabled(linux.OCRNL):
			c = '\n'
			if modes.OEnabled(linux.ONLRET) {
				p.column = 0
			}
		case c == '\r':
			p.column = 0
		case c == '\n':
			if modes.OEnabled(linux.ONLCR) {
				dst = append(dst, '\r')
				p.column = 0
			}
			if modes.OEnabled(linux.ONLRET) {
				p.column = 0
			}
		case c == '\t':
			n := tabWidth - p.column%tabWidth
			p.column += n
			if modes.OutputFlags&linux.TABDLY == linux.XTABS {
				dst = append(dst, "        "[:n]...)
				continue
			}
		case c == '\b':
			p.column = max(p.column-1, 0)
		case c >= ' ' && c&0xc0 != 0x80:
			// A byte that continues a character of UTF-8 moves nothing.
			p.column++
			if modes.OEnabled(linux.OLCUC) && 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// newlines is process with the modes that nearly every terminal has.
func (p *pump) newlines(dst, b []byte, add bool) []byte {
	for add {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		dst = append(dst, b[:i]...)
		dst = append(dst, '\r', '\n')
		b = b[i+1:]
		p.column = 0
	}
	if i := bytes.LastIndexByte(b, '\r'); i >= 0 {
		p.column = len(b) - i - 1
	} else {
		p.column += len(b)
	}
	return append(dst, b...)
}
