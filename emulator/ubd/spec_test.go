package ubd

import (
	"strings"
	"testing"

	"github.com/umlkit/umlkit/emulator/driver"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		unit, spec string
		want       Spec
		text       string
	}{
		{"0", "img", Spec{File: "img"}, "0=img"},
		{"15", "img", Spec{Unit: 15, File: "img"}, "15=img"},
		{"a", "img", Spec{File: "img"}, "0=img"},
		{"p", "img", Spec{Unit: 15, File: "img"}, "15=img"},
		{"0rscdt", "img", Spec{File: "img", ReadOnly: true, Sync: true, Shared: true, NoCOW: true, NoTrim: true}, "0rscdt=img"},
		{"bdr", "img", Spec{Unit: 1, File: "img", NoCOW: true, ReadOnly: true}, "1rd=img"},
		{"0", "cow,img", Spec{File: "cow", Backing: "img"}, "0=cow,img"},
		{"0", "cow:img", Spec{File: "cow", Backing: "img"}, "0=cow,img"},
		{"0", "cow:img,serial", Spec{File: "cow", Backing: "img", Serial: "serial"}, "0=cow,img,serial"},
		{"0", "img,,serial", Spec{File: "img", Serial: "serial"}, "0=img,,serial"},
		{"0", "img::serial", Spec{File: "img", Serial: "serial"}, "0=img,,serial"},
		{"0", "img,", Spec{File: "img"}, "0=img"},
	} {
		got, err := Parse(test.unit, test.spec)
		if err != nil || got != test.want || got.String() != test.text {
			t.Errorf("Parse(%q, %q) = %+v (%s), %v; want %+v (%s)", test.unit, test.spec, got, got, err, test.want, test.text)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		unit, spec string
		code       driver.Code
		text       string
	}{
		{"", "img", 1, "Couldn't parse device number"},
		{"q", "img", driver.Invalid, "Device number out of range"},
		{"x", "img", driver.Invalid, "Device number out of range"},
		{"-1", "img", 1, "Couldn't parse device number"},
		{"99999999999999999999", "img", 1, "Couldn't parse device number"},
		{"16", "img", driver.Invalid, "Device number out of range"},
		{"0x", "img", driver.Invalid, "Expected '=' or flag letter (r, s, c, t or d)"},
		{"0", "", driver.Invalid, "ubd0=: no file"},
		{"0", ",img", driver.Invalid, "ubd0=,img: no file"},
		{"0", "a,b,c,d", driver.Invalid, "ubd0=a,b,c,d: more than two files and a serial number"},
		{"0", "a\x00b", driver.Invalid, `ubd0="a\x00b": a NUL in it`},
		{"0d", "cow,img", driver.Invalid, "Can't specify both 'd' and a cow file"},
	} {
		_, err := Parse(test.unit, test.spec)
		if code, text := driver.Status(err); code != test.code || text != test.text {
			t.Errorf("Parse(%q, %q): %d %q, want %d %q", test.unit, test.spec, code, text, test.code, test.text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0", "img")
	f.Add("arscdt", "cow:img,serial")
	f.Add("15", "a,,b")
	f.Fuzz(func(t *testing.T, unit, spec string) {
		s, err := Parse(unit, spec)
		if err != nil {
			return
		}
		again, rest, _ := strings.Cut(s.String(), "=")
		if back, err := Parse(again, rest); err != nil || back != s {
			t.Fatalf("Parse(%q, %q) = %+v, written %q, read again %+v, %v", unit, spec, s, s, back, err)
		}
	})
}
