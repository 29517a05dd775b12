package ext4fs_test

import (
	"bytes"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestDataModesAsOnARealKernel kills a machine that overwrote a file after its last
// commit. With data=journal, as an option or as the superblock's default, the image has
// what the last commit took, to the byte: an overwrite after it waits in the log. In the
// other modes it is in its place. The guest sees what it wrote at all times, mapped or
// read, and cannot change the mode; a real kernel answers the same.
func TestDataModesAsOnARealKernel(t *testing.T) {
	for _, c := range []struct{ flags, super, want string }{
		{"data=journal", "", "third!"},
		{"data=ordered", "", "fourth"},
		{"data=writeback", "", "fourth"},
		{"", "journal_data", "third!"},
		{"", "journal_data_writeback", "fourth"},
	} {
		t.Run(strings.TrimSpace(c.flags+" "+c.super), func(t *testing.T) {
			var told []string
			for _, kernel := range []machine{ours(t, t.TempDir()), realKernel(t, t.TempDir())} {
				image := newImage(t, "100M", "-b", "4096", "-U", "01234567-89ab-cdef-0123-456789abcdef")
				if c.super != "" {
					oracle.Run(t, "tune2fs", "-o", c.super, image)
				}
				argv := append(kernel.argv, "con=null", "con0=null,fd:1", "ubd0="+image, "root=/dev/ubda", "rw",
					"rootflags="+strings.TrimPrefix(c.flags+",commit=600", ","), "init=/fscheck", "--", "journal", "/t")
				m := guest.StartCmd(t, exec.Command(argv[0], argv[1:]...))
				out := strings.ReplaceAll(m.Expect(time.Minute, "overwritten"), "\r", "")
				m.Signal(syscall.SIGKILL)
				m.Wait(time.Minute)
				var lines []string
				for _, l := range strings.Split(out, "\n") {
					if i := strings.Index(l, "EXT4-fs"); i >= 0 && strings.Contains(l, "data") {
						lines = append(lines, l[i:])
					} else if strings.HasPrefix(l, "seen") || strings.HasPrefix(l, "mount") || strings.HasPrefix(l, "remount") {
						lines = append(lines, l)
					}
				}
				told = append(told, strings.Join(lines, "\n"))
				if kernel.name != "linux" {
					continue
				}
				if out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fy", image).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() > 1 {
					t.Fatalf("e2fsck: %v\n%s", err, out)
				}
				oracle.Fsck(t, image)
				wantContent(t, image, "/t/overwritten", bytes.Repeat([]byte(c.want), 65536/6+1)[:65536])
				wantContent(t, image, "/t/synced", bytes.Repeat([]byte("synced"), 65536/6+1)[:65536])
			}
			sameLines(t, told[0], told[1], "linux", "real kernel")
		})
	}
}
