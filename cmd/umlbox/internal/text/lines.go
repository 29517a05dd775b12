package text

import (
	"bufio"
	"io"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// maxLine bounds a line that is held in memory.
const maxLine = 256 << 20

// lines reads the lines of r, without their end, and calls f until it returns
// false. The slice is valid during the call. ended says whether the line had
// its end.
func lines(r io.Reader, end byte, f func(line []byte, ended bool) bool) error {
	b := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		s, err := b.ReadSlice(end)
		if err == bufio.ErrBufferFull {
			if long = append(long, s...); len(long) > maxLine {
				return errLongLine
			}
			continue
		}
		if long != nil {
			s = append(long, s...)
			long = nil
		}
		if n := len(s); n > 0 {
			ended := s[n-1] == end
			if ended {
				s = s[:n-1]
			}
			if !f(s, ended) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errLongLine = applet.Usagef("a line of more than %d bytes", maxLine)
