package emulator

import (
	"bufio"
	"bytes"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

func TestCleanRuns(t *testing.T) {
	const smaps = `00400000-01a00000 r-xp 00000000 fe:01 77    /opt/uml kit/linux (deleted)
Rss:               10604 kB
Anonymous:             0 kB
THPeligible:           0
VmFlags: rd ex mr mw me sd
01a00000-01b00000 r-xp 01600000 fe:01 77    /opt/uml kit/linux (deleted)
Anonymous:             4 kB
01b00000-02e00000 r--p 01700000 fe:01 77    /opt/uml kit/linux (deleted)
Anonymous:             0 kB
02e00000-02f00000 rw-p 02a00000 fe:01 77    /opt/uml kit/linux (deleted)
Anonymous:             0 kB
02f00000-03000000 r--s 00000000 fe:01 77    /opt/uml kit/linux (deleted)
Anonymous:             0 kB
03000000-04000000 r--p 00000000 fe:01 78    /opt/uml kit/linux
Anonymous:             0 kB
c000000000-c000400000 r--p 00000000 00:00 0 
Anonymous:             0 kB
7fffdc5e3000-7fffdc604000 r-xp 00000000 00:00 0    [vdso]
Anonymous:             0 kB
`
	got, err := cleanRuns(strings.NewReader(smaps), "/opt/uml kit/linux (deleted)")
	if err != nil {
		t.Fatal(err)
	}
	if want := []addrRun{{0x400000, 0x1a00000}, {0x1b00000, 0x2e00000}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %#x, want %#x", got, want)
	}
	for _, bad := range []string{"00400000 r-xp 0 fe:01 77 /linux\n", "0x1-2 r-xp 0 fe:01 77 /linux\n", "1-100000000000000000 r-xp 0 fe:01 77 /linux\n"} {
		if runs, err := cleanRuns(strings.NewReader(bad), "/linux"); err == nil {
			t.Errorf("%q: got %v, want an error", bad, runs)
		}
	}
}

func TestDropProgram(t *testing.T) {
	before := programRss(t)
	if err := dropProgram(); err != nil {
		t.Fatal(err)
	}
	after := programRss(t)
	t.Logf("%d kB of the program in memory, then %d kB", before, after)
	if after > before/2 {
		t.Errorf("%d kB of the program are in memory, before it were %d kB", after, before)
	}
}

func TestSettleCollectsAsEver(t *testing.T) {
	before := debug.SetGCPercent(youngGC)
	(&Machine{gcPercent: before}).settle()
	if after := debug.SetGCPercent(before); after != before {
		t.Errorf("a settled machine's heap is collected at %d%%, that of the process was at %d%%", after, before)
	}
}

// programRss is how much of this program's text and constants is in memory, in KiB.
func programRss(t *testing.T) int {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	sum, ours := 0, false
	for in := bufio.NewScanner(bytes.NewReader(smaps)); in.Scan(); {
		f := strings.Fields(in.Text())
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			ours = (f[1] == "r-xp" || f[1] == "r--p") && strings.HasSuffix(in.Text(), " "+exe)
		case ours && f[0] == "Rss:":
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += kb
		}
	}
	if sum == 0 {
		t.Fatalf("/proc/self/smaps shows no page of %s", exe)
	}
	return sum
}
