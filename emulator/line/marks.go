package line

import "golang.org/x/sys/unix"

// marks finds breaks in what a host terminal gives that marks them (PARMRK of
// termios(3)): a break is 255 0 0, a byte with an error 255 0 and the byte, and 255
// itself comes twice.
type marks struct {
	// pressed is told of a break after so many bytes of data.
	pressed func(after int)

	state markState
}

// markState is where the reader stands.
type markState int

const (
	markNone markState = iota
	mark255
	markZero
)

// markedModes is raw modes that tell breaks from zeros. Errors are not looked for: a line
// of 8 bits has no parity.
func markedModes(raw unix.Termios) unix.Termios {
	raw.Iflag |= unix.PARMRK
	raw.Iflag &^= unix.INPCK
	return raw
}

// decode takes the marks out of b and returns the data that is left, in b's place.
func (m *marks) decode(b []byte) []byte {
	out := b[:0]
	for _, c := range b {
		switch {
		case m.state == markNone && c == 255:
			m.state = mark255
			continue
		case m.state == mark255 && c == 0:
			m.state = markZero
			continue
		case m.state == markZero && c == 0:
			m.pressed(len(out))
		default:
			out = append(out, c)
		}
		m.state = markNone
	}
	return out
}
