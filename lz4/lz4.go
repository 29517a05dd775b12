// Package lz4 unpacks blocks of LZ4, as squashfs and initial ramdisks hold them.
package lz4

import "errors"

var errBlock = errors.New("lz4: the block makes no sense")

// Unpack appends to out what the block in unpacks to: literals, then a copy of what was
// before, and so on; see lz4_Block_format.md of LZ4. What goes back before the end of out
// as it was given, is longer than most bytes with it, or ends early is an error.
func Unpack(out, in []byte, most int) ([]byte, error) {
	began := len(out)
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
			return nil, errBlock
		}
		out, in = append(out, in[:n]...), in[n:]
		if len(in) == 0 {
			return out, nil
		}
		if len(in) < 2 {
			return nil, errBlock
		}
		back := int(in[0]) | int(in[1])<<8
		in = in[2:]
		if n, ok = length(int(token & 15)); !ok {
			return nil, errBlock
		}
		n += 4
		if back == 0 || back > len(out)-began || len(out)+n > most {
			return nil, errBlock
		}
		for range n {
			out = append(out, out[len(out)-back])
		}
	}
	return out, nil
}
