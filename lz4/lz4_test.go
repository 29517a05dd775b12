package lz4

import (
	"bytes"
	"testing"
)

func TestUnpack(t *testing.T) {
	before := []byte("abcd")
	for _, c := range []struct {
		in, want string
		most     int
	}{
		{"", "", 0},
		{"\x40abcd", "abcd", 4},
		// A copy may reach into itself; a length of 15 and more goes on in the next bytes.
		{"\x10a\x01\x00", "aaaaa", 5},
		{"\x1fa\x01\x00\xff\x00\x20bc", string(bytes.Repeat([]byte("a"), 1+19+255)) + "bc", 300},
	} {
		out, err := Unpack(bytes.Clone(before), []byte(c.in), len(before)+c.most)
		if err != nil || string(out) != "abcd"+c.want {
			t.Errorf("%q: %q, %v", c.in, out, err)
		}
	}
	for _, in := range []string{"\x40abc", "\xf0", "\xf0\xff", "\x00\x01\x00", "\x10a\x00\x00", "\x10a\x02\x00", "\x10a\x01", "\x1fa\x01\x00", "\x1fa\x01\x00\xff\xff\xff\x00"} {
		if out, err := Unpack(bytes.Clone(before), []byte(in), 300); err == nil {
			t.Errorf("%q: %q", in, out)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{0x40, 'a', 'b', 'c', 'd', 4, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if out, err := Unpack(nil, in, 4096); err == nil && len(out) > 4096 {
			t.Errorf("%d bytes", len(out))
		}
	})
}
