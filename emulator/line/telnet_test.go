package line

import (
	"bytes"
	"strings"
	"testing"
)

// talk is a connection and what it told of.
type talk struct {
	*telnet
	sizes  []Size
	breaks int
}

func newTalk() *talk {
	k := &talk{}
	k.telnet = newTelnet(func(s Size) { k.sizes = append(k.sizes, s) }, func(int) { k.breaks++ })
	return k
}

func TestTelnetDecode(t *testing.T) {
	for _, test := range []struct{ in, want, reply string }{
		{"plain", "plain", ""},
		{"a\r\x00b\r\nc\rd\n", "a\rb\rc\rd\n", ""},
		{"\xff\xff", "\xff", ""},
		{"x\xff\xf4y\xff\xf7\xff\xf8\xff\xec\xff\xed\xff\xee", "x\x03y\x7f\x15\x04\x1a\x1c", ""},
		{"\xff\xf1\xff\xf9z", "z", ""},
		{"\xff\xf6", "", "\r\n[yes]\r\n"},
		// What was offered is accepted: no answer. What is unknown is refused.
		{"\xff\xfd\x01\xff\xfd\x03\xff\xfb\x1f", "", ""},
		{"\xff\xfb\x18\xff\xfd\x27", "", "\xff\xfe\x18\xff\xfc\x27"},
		{"\xff\xfe\x01", "", "\xff\xfc\x01"},
		{"\xff\xfe\x01\xff\xfe\x01\xff\xfc\x63", "", "\xff\xfc\x01"},
		{"\xff\xfd\x00\xff\xfb\x00\r\n\r\x00", "\r\n\r\x00", "\xff\xfb\x00\xff\xfd\x00"},
		{"\xff\xfa\x18\x00xterm\xff\xf0y", "y", ""},
		{"\xff\xfa\x18never closed\xff\x05y", "y", ""},
	} {
		for _, piece := range []int{1, 1000} {
			k := newTalk()
			k.takeReplies()
			var got, reply []byte
			for in := []byte(test.in); len(in) > 0; {
				n := min(piece, len(in))
				got = append(got, k.decode(bytes.Clone(in[:n]))...)
				reply = append(reply, k.takeReplies()...)
				in = in[n:]
			}
			if string(got) != test.want || string(reply) != test.reply {
				t.Errorf("%q in pieces of %d: %q, answered %q; want %q, %q", test.in, piece, got, reply, test.want, test.reply)
			}
		}
	}
}

func TestTelnetWindow(t *testing.T) {
	k := newTalk()
	k.decode([]byte("\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0\xff\xfa\x1f\xff\xff\x00\x00\x18\xff\xf0\xff\xfa\x1f\x00\x00\x00\x00\xff\xf0\xff\xfa\x1f\x00\x50\xff\xf0\xff\xf3"))
	if len(k.sizes) != 2 || k.sizes[0] != (Size{Rows: 24, Cols: 80}) || k.sizes[1] != (Size{Rows: 24, Cols: 0xff00}) {
		t.Errorf("sizes %+v", k.sizes)
	}
	if s, ok := k.window(); !ok || s != k.sizes[1] {
		t.Errorf("window %+v, %v", s, ok)
	}
	if k.breaks != 1 {
		t.Errorf("%d breaks", k.breaks)
	}
}

func TestTelnetEncode(t *testing.T) {
	k := newTalk()
	var got []byte
	for _, s := range []string{"a\r\nb\r", "c\xff\r", "\n\r", "\r\n"} {
		got = append(got, k.encode([]byte(s))...)
	}
	if want := "a\r\nb\r\x00c\xff\xff\r\n\r\x00\r\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzTelnet(f *testing.F) {
	for _, s := range []string{"plain\r\x00", "\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0", "\xff\xfd\x01\xff\xfe\x01", strings.Repeat("\xff\xfb\x63", 500), "\xff\xfa" + strings.Repeat("x", 100)} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if piece < 1 || piece > len(in) {
			piece = max(len(in), 1)
		}
		whole, pieces := newTalk(), newTalk()
		want := whole.decode(bytes.Clone(in))
		var got []byte
		for rest := in; len(rest) > 0; {
			n := min(piece, len(rest))
			got = append(got, pieces.decode(bytes.Clone(rest[:n]))...)
			rest = rest[n:]
		}
		if !bytes.Equal(got, want) || !bytes.Equal(pieces.takeReplies(), whole.replies) || len(whole.sizes) != len(pieces.sizes) {
			t.Fatalf("in pieces of %d: %q, whole %q", piece, got, want)
		}
		if len(want) > len(in) || len(whole.replies) > maxReplies || len(whole.sizes) > len(in)/9 {
			t.Fatalf("%d bytes make %d of data, %d of answers, %d sizes", len(in), len(want), len(whole.replies), len(whole.sizes))
		}
		// What a client that keeps to the protocol sees of any data is that data.
		client := newTalk()
		client.theirs[optBinary], whole.ours[optBinary] = true, true
		if back := client.decode(bytes.Clone(whole.encode(in))); !bytes.Equal(back, in) {
			t.Fatalf("sent %q, arrived %q", in, back)
		}
	})
}
