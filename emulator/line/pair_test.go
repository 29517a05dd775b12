package line

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	null, fd0, fd1, fd2 := End{}, End{Kind: FD}, End{Kind: FD, Number: 1}, End{Kind: FD, Number: 2}
	for _, test := range []struct {
		spec string
		want Pair
		text string
	}{
		{"null", Pair{null, null}, "null"},
		{"none", Pair{End{Kind: None}, End{Kind: None}}, "none"},
		{"fd:0,fd:1", Pair{fd0, fd1}, "fd:0,fd:1"},
		{"fd:0, fd:1", Pair{fd0, fd1}, "fd:0,fd:1"},
		{"fd:2", Pair{fd2, fd2}, "fd:2"},
		{"null,fd:2", Pair{null, fd2}, "null,fd:2"},
		{"port: 4321", Pair{End{Kind: Port, Number: 4321}, End{Kind: Port, Number: 4321}}, "port:4321"},
		{"port:0.0.0.0:9000", Pair{End{Kind: Port, Number: 9000, Address: "0.0.0.0"}, End{Kind: Port, Number: 9000, Address: "0.0.0.0"}}, "port:0.0.0.0:9000"},
		{"port:[::1]:9000,null", Pair{End{Kind: Port, Number: 9000, Address: "::1"}, null}, "port:[::1]:9000,null"},
		{"/dev/tty8", Pair{End{Kind: TTY, Path: "/dev/tty8"}, End{Kind: TTY, Path: "/dev/tty8"}}, "tty:/dev/tty8"},
		{"tty:/dev/tty8", Pair{End{Kind: TTY, Path: "/dev/tty8"}, End{Kind: TTY, Path: "/dev/tty8"}}, "tty:/dev/tty8"},
		{"pty", Pair{End{Kind: Pty}, End{Kind: Pty}}, "pty"},
		{"pts", Pair{End{Kind: Pts}, End{Kind: Pts}}, "pts"},
		{"xterm", Pair{End{Kind: Xterm}, End{Kind: Xterm}}, "xterm"},
	} {
		got, err := Parse(test.spec)
		if err != nil || got != test.want || got.String() != test.text {
			t.Errorf("Parse(%q) = %+v (%s), %v; want %+v (%s)", test.spec, got, got, err, test.want, test.text)
		}
	}
	for _, spec := range []string{"", "bogus", "fd", "fd:", "fd:x", "fd:-1", "fd:99999999999", "fd:0,", ",fd:1", "fd:0,fd:1,fd:2", "null:3", "port:0", "port:70000", "port:", "port:localhost:9000", "port:1.2.3.4:", "port:::1:9000", "tty:x", "none,fd:1"} {
		_, err := Parse(spec)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("Parse(%q): error %v, want a SyntaxError", spec, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, spec := range []string{"null", "fd:0,fd:1", "port:9000", "tty:/dev/tty1", "fd: 3", "xterm,null", "port:[fe80::1%eth0]:7"} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		pair, err := Parse(spec)
		if err != nil {
			return
		}
		again, err := Parse(pair.String())
		if err != nil {
			t.Fatalf("Parse(%q) gives %q, which does not parse: %v", spec, pair, err)
		}
		if again != pair {
			t.Fatalf("Parse(%q) = %+v, and parsed again %+v", spec, pair, again)
		}
	})
}
