package procfs

import (
	"bytes"
	"strings"
	"testing"
)

func TestMountLines(t *testing.T) {
	for _, test := range []struct {
		line, source string
		info, mounts string
		stats        string
	}{
		{"8 8 98:0 / / rw - ext4 none rw,discard", "/dev/ubda",
			"8 8 98:0 / / rw - ext4 /dev/ubda rw,discard\n", "/dev/ubda / ext4 rw,discard 0 0\n",
			"device /dev/ubda mounted on / with fstype ext4\n"},
		{`9 8 0:11 / /a\040b ro,nosuid shared:1 master:2 - tmpfs none ro,size=4k,mode=0755`, "x",
			`9 8 0:11 / /a\040b ro,nosuid shared:1 master:2 - tmpfs x ro,size=4k,mode=0755` + "\n",
			`x /a\040b tmpfs ro,nosuid,size=4k,mode=0755 0 0` + "\n", "device x mounted on /a\\040b with fstype tmpfs\n"},
		{"11 8 0:12 / /proc rw - proc none rw,dentry_cache_limit=1000", "none",
			"11 8 0:12 / /proc rw - proc none rw\n", "none /proc proc rw 0 0\n", "no device mounted on /proc with fstype proc\n"},
		{"12 8 0:13 / /dev rw - dev none rw,mode=0755", "udev",
			"12 8 0:13 / /dev rw - devtmpfs udev rw,mode=0755\n", "udev /dev devtmpfs rw,mode=0755 0 0\n",
			"device udev mounted on /dev with fstype devtmpfs\n"},
		{"13 8 98:0 / /r rw,noexec - ext4 none ro,sync,lazytime,discard", "/dev/ubda",
			"13 8 98:0 / /r rw,noexec - ext4 /dev/ubda ro,sync,lazytime,discard\n", "/dev/ubda /r ext4 ro,sync,lazytime,noexec,discard 0 0\n",
			"device /dev/ubda mounted on /r with fstype ext4\n"},
	} {
		l, ok := parseMountLine(test.line)
		if !ok {
			t.Errorf("%q is not understood", test.line)
			continue
		}
		l.source = test.source
		for _, form := range []struct {
			write func(*bytes.Buffer, mountLine)
			want  string
		}{{writeMountInfo, test.info}, {writeMounts, test.mounts}, {writeMountStats, test.stats}} {
			var b bytes.Buffer
			form.write(&b, l)
			if b.String() != form.want {
				t.Errorf("%q:\n got %q\nwant %q", test.line, b.String(), form.want)
			}
		}
	}
}

func TestMangle(t *testing.T) {
	if got := mangle("a b\tc\nd\\e#"); got != `a\040b\011c\012d\134e\043` {
		t.Errorf("mangle gives %s", got)
	}
}

func FuzzMountLine(f *testing.F) {
	f.Add("8 8 98:0 / / rw - ext4 none rw,discard")
	f.Add("x - - -")
	f.Fuzz(func(t *testing.T, line string) {
		if l, ok := parseMountLine(line); ok {
			var b bytes.Buffer
			writeMounts(&b, l)
			if n := strings.Count(b.String(), "\n"); n < 1 {
				t.Errorf("%q gives %q", line, b.String())
			}
		}
	})
}
