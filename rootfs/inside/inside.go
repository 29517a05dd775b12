// Package inside does work on an image inside a machine of its own: linux boots with the
// image as its disk, and what is to be done runs there as root, with no privilege on this
// machine. An initial RAM disk with umlbox in it prepares and ends that, so nothing is
// left in the image but what the work itself leaves.
package inside

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is what work is done in.
type Machine struct {
	// Linux and Umlbox are the programs.
	Linux, Umlbox string

	// Disk is the image's file, which holds an ext4 file system. It needs no name.
	Disk *os.File

	// Memory is the machine's, in MiB.
	Memory int

	// Output, where set, takes what the work prints, as it comes.
	Output io.Writer
}

// StatusError is work that ended with a status other than 0, or that did not end.
type StatusError struct {
	Status int // -1: the machine ended before the work did
	Output string
}

// Error has the end of what was printed, in one line.
func (e *StatusError) Error() string {
	lines := strings.FieldsFunc(e.Output, func(r rune) bool { return r == '\n' || r == '\r' })
	lines = lines[max(len(lines)-8, 0):]
	what := fmt.Sprintf("it ended with status %d", e.Status)
	if e.Status < 0 {
		what = "the machine ended before it did"
	}
	return what + ", after: " + strings.Join(lines, "; ")
}

// outputMax is how much of what is printed is kept, in bytes.
const outputMax = 64 << 10

// Find looks for linux beside a program of ours, then on PATH.
func Find(executable string) (string, error) {
	if resolved, err := filepath.EvalSymlinks(executable); err == nil {
		executable = resolved
	}
	beside := filepath.Join(filepath.Dir(executable), "linux")
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		return beside, nil
	}
	if path, err := exec.LookPath("linux"); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("the work inside the image needs linux, which is neither %s nor on PATH: name it by --linux", beside)
}

// Run runs a program of the image, an absolute path, and waits for its end.
func (m *Machine) Run(ctx context.Context, program string) error {
	runtime.LockOSThread() // the machine ends with the thread that started it
	defer runtime.UnlockOSThread()
	dir, err := os.MkdirTemp("", "umlimg-inside-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	box, err := os.ReadFile(m.Umlbox)
	if err != nil {
		return err
	}
	initrd, status := filepath.Join(dir, "initrd"), filepath.Join(dir, "status")
	if err := os.WriteFile(initrd, ramDisk(box, program), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(status, make([]byte, 4096), 0o600); err != nil {
		return err
	}
	var kept tail
	cmd := exec.CommandContext(ctx, m.Linux, fmt.Sprintf("mem=%dM", m.Memory), "ubd0=/proc/self/fd/3", "ubd1="+status, "initrd="+initrd,
		"uml_dir="+dir, "umid=inside", "con=null", "con0=null,fd:1", "ssl=null", "quiet", "panic=0")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TMPDIR=" + os.TempDir(), "HOME=" + dir}
	cmd.ExtraFiles = []*os.File{m.Disk} // descriptor 3 there
	cmd.Stdout = &kept
	if m.Output != nil {
		cmd.Stdout = io.MultiWriter(&kept, m.Output)
	}
	cmd.Stderr = cmd.Stdout
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	data, err := os.ReadFile(status)
	if err != nil {
		return err
	}
	text, _, _ := strings.Cut(strings.TrimRight(string(data), "\x00"), "\n")
	n, err := strconv.Atoi(text)
	if err != nil {
		n = -1
	}
	if n != 0 {
		return &StatusError{n, kept.String()}
	}
	return nil
}

// tail keeps the end of what is written.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p)
	if over := t.Len() - outputMax; over > 0 {
		t.Next(over)
	}
	return len(p), nil
}

// prepare is /init of the RAM disk. The status goes to the second disk.
const prepare = `#!/umlbox sh
b=/umlbox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
$b mount -t ext4 -o rw /dev/ubda /disk || $b poweroff -f
for m in proc:proc:/proc sysfs:sysfs:/sys devtmpfs:dev:/dev; do
	dir=/disk${m##*:}
	$b mkdir -p $dir
	$b mount -t ${m%%:*} none $dir
done
$b mkdir -p /disk/dev/pts /disk/dev/shm
$b mount -t devpts -o gid=5,mode=620,ptmxmode=666 none /disk/dev/pts
$b mount -t tmpfs -o mode=1777 none /disk/dev/shm
$b mount -t tmpfs -o mode=755 none /disk/run
$b ip link set lo up
$b env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 $b chroot /disk PROGRAM </dev/null
status=$?
for m in /dev/shm /dev/pts /dev /sys /proc /run; do $b umount -l /disk$m; done
$b sync
$b umount /disk || $b mount -o remount,ro /disk
echo $status >/dev/ubdb
$b sync
$b poweroff -f
`

// ramDisk is an archive of cpio's newc form with umlbox and /init.
func ramDisk(box []byte, program string) []byte {
	var b bytes.Buffer
	count := 0
	add := func(name string, mode uint32, data []byte) {
		count++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(&b)
		b.Write(data)
		pad(&b)
	}
	for _, dir := range []string{"proc", "dev", "disk"} {
		add(dir, 0o40755, nil)
	}
	add("umlbox", 0o100755, box)
	quoted := "'" + strings.ReplaceAll(program, "'", `'\''`) + "'"
	add("init", 0o100755, []byte(strings.Replace(prepare, "PROGRAM", quoted, 1)))
	add("TRAILER!!!", 0, nil)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
