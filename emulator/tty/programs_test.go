package tty_test

import (
	"strings"
	"testing"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
)

// TestProgramsOnTerminals runs what stands between people and terminals: script(1) with a
// pty of the guest's, ps with names of terminals, stty.
func TestProgramsOnTerminals(t *testing.T) {
	m := shell(t, "initrd="+borrowed.Initrd(t, "mkdir -p /dev/pts; mount -t devpts -o gid=5,mode=620 devpts /dev/pts; "+shellInit,
		[]string{"bash", "script", "ps", "stty", "perl", "setpriv", "stat"}, nil), "con1=null", "ssl63=null")
	m.Quiet()
	const nobody = "setpriv --reuid=7 --regid=8 --clear-groups "
	for _, test := range []struct{ command, want string }{
		{"script -qec tty /tmp/typescript </dev/null | tr -d '\\r'", "/dev/pts/0\n"},
		{"grep -c pts/0 /tmp/typescript", "1\n"},
		{"script -qec '/bin/ps -o tty= -p $$' /dev/null </dev/null | tr -d '\\r 0-9'", "pts/\n"},
		{"/bin/ps -o tty= -p $$", "tty0    \n"},
		{"(setsid sh -c 'exec <>/dev/ttyS63 >&0; sleep 100' & sleep 1; /bin/ps -o tty=,args= -C sleep; kill $(/bin/ps -o pid= -C sleep))", "ttyS63   sleep 100\n"},
		{"stty -a | head -n 1", "speed 38400 baud; rows 40; columns 132; line = 0;\n"},
		{"stty -a | grep -o 'lnext = ^V'", "lnext = ^V\n"},
		{"cat /proc/sys/dev/tty/legacy_tiocsti", "0\n"},
		{`perl -e '$x = "x"; print ioctl(STDIN, 0x5412, $x) ? "taken" : $!, "\n"'`, "Input/output error\n"},
		{`script -qec "perl -e '@x = q(x); print ioctl(STDIN, 0x5412, $x[0]) ? q(taken) : q(refused)'" /dev/null </dev/null`, "refused\n"},
		{nobody + `script -qec "stat -c '%u:%g %a' /dev/pts; stat -c '%u:%g %a' \$(tty)" /dev/null </dev/null | tr -d '\r'`, "0:0 755\n7:5 620\n"},
		{"umount /dev/pts; mount -t devpts devpts /dev/pts; " + nobody + `script -qec "stat -c '%u:%g %a' \$(tty)" /dev/null </dev/null | tr -d '\r'`, "7:8 600\n"},
		{"mount -t devpts -o gid=5x devpts /dev/pts 2>/dev/null || echo refused", "refused\n"},
		{"mount -t proc proc /proc 2>/dev/null; grep -c 'devpts /dev/pts devpts rw,.*mode=600' /proc/mounts", "1\n"},
		{"stty rows 33 cols 99; stty size", "33 99\n"},
	} {
		if got, _ := m.Try(limit, test.command); strings.TrimRight(got, " \n") != strings.TrimRight(test.want, " \n") {
			t.Errorf("%s: %q, want %q", test.command, got, test.want)
		}
	}
}
