package line

import (
	"bytes"
	"sync"
)

// The telnet protocol: RFC 854, 856 to 858, 1073.
const (
	telEOF   = 236
	telSusp  = 237
	telAbort = 238
	telSE    = 240
	telBreak = 243
	telIP    = 244
	telAYT   = 246
	telEC    = 247
	telEL    = 248
	telSB    = 250
	telWill  = 251
	telWont  = 252
	telDo    = 253
	telDont  = 254
	telIAC   = 255

	optBinary = 0
	optEcho   = 1
	optSGA    = 3
	optNAWS   = 31
)

// maxReplies bounds the answers that wait for a client to take them, in bytes. A client
// that asks and does not read gets no more.
const maxReplies = 1024

// maxSub is the longest subnegotiation that is kept: that of a window's size is four
// bytes. What is longer is passed over.
const maxSub = 16

// telnet is the server's side of one connection: it tells a client's data from its
// commands, and answers those. What a client sends is hostile: the state is a few words
// and every option is answered at most once in each direction.
type telnet struct {
	// resized and pressed are told of a window's size and of a break after so many bytes
	// of data.
	resized func(Size)
	pressed func(after int)

	// state is the reader's alone.
	state   telnetState
	verb    byte
	sub     [maxSub]byte
	subLen  int
	afterCR bool

	// lastCR says that the last byte written was a carriage return. It is the
	// writer's alone.
	lastCR bool

	mu      sync.Mutex
	replies []byte
	// ours and theirs are the options in force on each side.
	ours, theirs [256]bool
	size         Size
	sized        bool
}

// telnetState is where the reader stands.
type telnetState int

const (
	telData telnetState = iota
	telCommand
	telOption
	telSub
	telSubCommand
)

// newTelnet begins a connection: the client shall not echo, shall send each key at
// once and shall tell the size of its window.
func newTelnet(resized func(Size), pressed func(after int)) *telnet {
	t := &telnet{resized: resized, pressed: pressed}
	t.ours[optEcho], t.ours[optSGA] = true, true
	t.replies = []byte{telIAC, telWill, optEcho, telIAC, telWill, optSGA, telIAC, telDo, optSGA, telIAC, telDo, optNAWS}
	// These are asked for above: their acceptance is no news to answer.
	t.theirs[optSGA], t.theirs[optNAWS] = true, true
	return t
}

// decode takes the commands out of b and returns the data that is left, in b's place.
func (t *telnet) decode(b []byte) []byte {
	out := b[:0]
	for _, c := range b {
		switch t.state {
		case telData:
			switch {
			case c == telIAC:
				t.state = telCommand
				continue
			case t.afterCR && (c == 0 || c == '\n') && !t.binary():
				// The return key is sent as CR NUL or CR LF.
			default:
				out = append(out, c)
			}
			t.afterCR = c == '\r'
		case telCommand:
			t.state = telData
			switch c {
			case telIAC:
				t.afterCR = false
				out = append(out, c)
			case telWill, telWont, telDo, telDont:
				t.verb, t.state = c, telOption
			case telSB:
				t.subLen, t.state = 0, telSub
			case telBreak:
				t.pressed(len(out))
			case telAYT:
				t.reply("\r\n[yes]\r\n")
			default:
				if key, ok := telnetKeys[c]; ok {
					out = append(out, key)
				}
			}
		case telOption:
			t.state = telData
			t.negotiate(t.verb, c)
		case telSub:
			if c == telIAC {
				t.state = telSubCommand
			} else {
				t.addSub(c)
			}
		case telSubCommand:
			if c == telIAC {
				t.state = telSub
				t.addSub(c)
				continue
			}
			// Whatever stands here ends it: a subnegotiation never does otherwise.
			t.state = telData
			if c == telSE {
				t.subnegotiated()
			}
		}
	}
	return out
}

// telnetKeys are the commands that stand for keys.
var telnetKeys = map[byte]byte{telEOF: 'D' & 0x1f, telSusp: 'Z' & 0x1f, telAbort: '\\' & 0x1f, telIP: 'C' & 0x1f, telEC: 0x7f, telEL: 'U' & 0x1f}

func (t *telnet) binary() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.theirs[optBinary]
}

func (t *telnet) addSub(c byte) {
	if t.subLen < maxSub {
		t.sub[t.subLen] = c
	}
	t.subLen = min(t.subLen+1, maxSub+1)
}

// subnegotiated takes a whole subnegotiation: only that of the window's size means
// anything. A size of 0 is one that the client does not know.
func (t *telnet) subnegotiated() {
	if t.subLen != 5 || t.sub[0] != optNAWS {
		return
	}
	s := Size{Cols: uint16(t.sub[1])<<8 | uint16(t.sub[2]), Rows: uint16(t.sub[3])<<8 | uint16(t.sub[4])}
	if s.Rows == 0 || s.Cols == 0 {
		return
	}
	t.mu.Lock()
	changed := !t.sized || t.size != s
	t.size, t.sized = s, true
	t.mu.Unlock()
	if changed {
		t.resized(s)
	}
}

// negotiate answers an option: once for each change.
func (t *telnet) negotiate(verb, option byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	on, yes, no, known := &t.theirs[option], byte(telDo), byte(telDont), option == optBinary || option == optSGA || option == optNAWS
	if verb == telDo || verb == telDont {
		on, yes, no, known = &t.ours[option], telWill, telWont, option == optBinary || option == optEcho || option == optSGA
	}
	switch want := verb == telDo || verb == telWill; {
	case want && !known:
		t.replyLocked(string([]byte{telIAC, no, option}))
	case want != *on:
		*on = want
		answer := no
		if want {
			answer = yes
		}
		t.replyLocked(string([]byte{telIAC, answer, option}))
	}
}

func (t *telnet) reply(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.replyLocked(s)
}

func (t *telnet) replyLocked(s string) {
	if len(t.replies)+len(s) <= maxReplies {
		t.replies = append(t.replies, s...)
	}
}

// takeReplies is what waits to be sent; it waits no more.
func (t *telnet) takeReplies() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.replies
	t.replies = nil
	return r
}

// putBack is for the rest of what takeReplies gave.
func (t *telnet) putBack(rest []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.replies = append(rest, t.replies...)
}

// window is the size that the client told last.
func (t *telnet) window() (Size, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size, t.sized
}

// encode is b as it is sent: 255 twice, and a carriage return that no newline follows
// with a NUL.
func (t *telnet) encode(b []byte) []byte {
	t.mu.Lock()
	binary := t.ours[optBinary]
	t.mu.Unlock()
	if !t.lastCR && bytes.IndexByte(b, telIAC) < 0 && (binary || bytes.IndexByte(b, '\r') < 0) {
		return b
	}
	out := make([]byte, 0, len(b)+len(b)/8+8)
	for _, c := range b {
		if t.lastCR && c != '\n' {
			out = append(out, 0)
		}
		t.lastCR = c == '\r' && !binary
		out = append(out, c)
		if c == telIAC {
			out = append(out, telIAC)
		}
	}
	return out
}
