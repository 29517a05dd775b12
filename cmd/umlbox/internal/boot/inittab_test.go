package boot

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseInittab(t *testing.T) {
	table, err := parseInittab(strings.NewReader(`# comment
::sysinit:/etc/init.d/rcS
tty1::respawn:-/bin/sh -l
/dev/tty2:ignored:askfirst:/bin/sh
::wait:echo "a b"; echo c

::ctrlaltdel:/sbin/reboot
::nosuch:x
short:line
::once:
`))
	if err == nil || !strings.Contains(err.Error(), `line 8: unknown action "nosuch"`) ||
		!strings.Contains(err.Error(), `line 9: "short:line"`) || !strings.Contains(err.Error(), "line 10:") {
		t.Errorf("error %v", err)
	}
	want := []entry{
		{action: "sysinit", argv: []string{"/etc/init.d/rcS"}},
		{terminal: "tty1", action: "respawn", argv: []string{"-/bin/sh", "-l"}},
		{terminal: "tty2", action: "askfirst", argv: []string{"/bin/sh"}},
		{action: "wait", argv: []string{self, "sh", "-c", `echo "a b"; echo c`}},
		{action: "ctrlaltdel", argv: []string{"/sbin/reboot"}},
	}
	if !reflect.DeepEqual(table, want) {
		t.Errorf("table\n%+v\nwant\n%+v", table, want)
	}
}

func FuzzInittab(f *testing.F) {
	f.Add("::respawn:/bin/sh\n")
	f.Add(":::\n::once:;\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, _ := parseInittab(strings.NewReader(text))
		for _, ent := range table {
			if len(ent.argv) == 0 || ent.argv[0] == "" {
				t.Errorf("%q: an entry without a command: %+v", text, ent)
			}
			if strings.HasPrefix(ent.argv[0], "/proc/self") && ent.argv[0] != self {
				t.Errorf("%q: %+v", text, ent)
			}
		}
	})
}
