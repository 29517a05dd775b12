package tty

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
)

func TestProcess(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags uint32
		in    []string
		want  string
	}{
		{"raw", 0, []string{"a\n\tb\r"}, "a\n\tb\r"},
		{"usual", linux.OPOST | linux.ONLCR, []string{"a\nb\n\nc", "\n"}, "a\r\nb\r\n\r\nc\r\n"},
		{"post alone", linux.OPOST, []string{"a\nb"}, "a\nb"},
		{"tabs", linux.OPOST | linux.ONLCR | linux.XTABS, []string{"a\tb", "\tc\n\td"}, "a       b       c\r\n        d"},
		{"tabs behind wide characters", linux.OPOST | linux.XTABS, []string{"ää\tb\b\tc"}, "ää      b\b        c"},
		{"return becomes newline", linux.OPOST | linux.OCRNL, []string{"a\rb"}, "a\nb"},
		{"no return in column 0", linux.OPOST | linux.ONOCR, []string{"\ra\r\rb"}, "a\rb"},
		{"newline returns", linux.OPOST | linux.ONLRET | linux.ONOCR, []string{"a\n\rb"}, "a\nb"},
		{"upper case", linux.OPOST | linux.OLCUC, []string{"aBz{"}, "ABZ{"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var o output
			var got []byte
			for _, s := range test.in {
				got = o.process(got, []byte(s), &linux.KernelTermios{InputFlags: linux.IUTF8, OutputFlags: test.flags})
			}
			if string(got) != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestColumnIsFollowedInBothWays(t *testing.T) {
	for _, s := range []string{"", "abc", "a\nbc", "\n", "abc\rd", "a\r\nxyz"} {
		var quick, slow output
		quick.process(nil, []byte(s), &linux.KernelTermios{OutputFlags: linux.OPOST | linux.ONLCR})
		slow.process(nil, []byte(s), &linux.KernelTermios{OutputFlags: linux.OPOST | linux.ONLCR | linux.XTABS})
		if quick.column != slow.column {
			t.Errorf("%q: column %d and %d", s, quick.column, slow.column)
		}
	}
}
