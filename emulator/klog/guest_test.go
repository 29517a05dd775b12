package klog_test

import (
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// logScript does with the kernel log all that Debian's dmesg can, and reads its files.
const logScript = `mount -t proc proc /proc
[ -e /dev/kmsg ] || mount -t devtmpfs devtmpfs /dev
d=/bin/dmesg
exec 2>&1
echo BEGIN
$d -D; cat /proc/sys/kernel/printk
$d -E; cat /proc/sys/kernel/printk
$d -n 3; cat /proc/sys/kernel/printk
$d -n emerg; cat /proc/sys/kernel/printk
$d -n 1
$d -C; $d
echo '<3>an error' >/dev/kmsg; echo plain >/dev/kmsg; echo '<30>a daemon' >/dev/kmsg; echo '<0>kernel?' >/dev/kmsg; printf 'tab\there\n' >/dev/kmsg
$d -t; $d -tx; $d -t -l err; $d -t -f daemon; $d -tS
(timeout 3 $d -tw | sed 's/^/followed: /') 2>/dev/null & sleep 0.4; echo '<4>later' >/dev/kmsg; wait
$d -tc | wc -l; $d
echo '<5>through proc' >/dev/kmsg
(timeout 3 cat /proc/kmsg | tail -n 1 | sed 's/\[.*\] //') 2>/dev/null
(timeout 3 cat /proc/kmsg) 2>/dev/null; echo nothing more
dd if=/dev/kmsg bs=10 count=1 2>&1 | grep -o 'Invalid.*'
dd if=/dev/zero bs=1025 count=1 2>/dev/null | dd of=/dev/kmsg bs=1025 2>&1 | grep -o 'Invalid.*'
echo 1 >/proc/sys/kernel/dmesg_restrict
/bin/setpriv --reuid 1000 --clear-groups $d 2>&1 | grep -o 'Operation.*'
echo END
poweroff -f
`

// TestLogIsTheRealKernels runs the same in our machine and under a real kernel.
func TestLogIsTheRealKernels(t *testing.T) {
	rd := borrowed.Initrd(t, logScript, []string{"dmesg", "setpriv"}, nil)
	var outputs [2]string
	var all sync.WaitGroup
	for i, kernel := range []string{guest.Binary(t, "linux"), oracle.RealUML(t)} {
		all.Go(func() {
			out, err := exec.Command(kernel, "mem=128M", "uml_dir="+t.TempDir()+"/", "initrd="+rd, "con=null", "con0=null,fd:1", "quiet").CombinedOutput()
			text := strings.ReplaceAll(string(out), "\r", "")
			_, text, begun := strings.Cut(text, "BEGIN\n")
			text, _, ended := strings.Cut(text, "END\n")
			if !begun || !ended {
				t.Errorf("%s: %v\n%s", kernel, err, out)
			}
			outputs[i] = text
		})
	}
	all.Wait()
	if outputs[0] != outputs[1] {
		t.Errorf("ours:\n%s\nthe real kernel's:\n%s", outputs[0], outputs[1])
	}
}
