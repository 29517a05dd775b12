package proof

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestKilledAtAnyMoment kills a machine that writes. What it had synced before must
// be there after e2fsck has mended the rest.
func TestKilledAtAnyMoment(t *testing.T) {
	rounds := 6
	if nightly {
		rounds = 200
	}
	var u user
	dir := u.workdir(t)
	base := filepath.Join(dir, "base.img")
	u.run(t, guest.Binary(t, "umlimg"), "create", "--size", "256M", "--umlbox", guest.Binary(t, "umlbox"), base)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	for i := range rounds {
		image := filepath.Join(dir, "disk.img")
		oracle.Run(t, "cp", "--sparse=always", base, image)
		// Each round of the guest's loop makes files, syncs, and says so; what it has
		// said is what must be found.
		script := `mkdir -p /load; n=0; while true; do n=$((n+1)); mkdir /load/d$n; ` +
			`echo content $n >/load/d$n/file; seq 1 2000 >/load/d$n/long; ln -s file /load/d$n/link; ` +
			`mv /load/d$n/long /load/d$n/moved; rm -rf /load/scratch; mkdir /load/scratch; echo y >/load/scratch/y; ` +
			`sync; echo synced $n; done`
		m := guest.Start(t, guest.Binary(t, "linux"), "mem=256M", "uml_dir="+dir, "ubd0="+image, "root=/dev/ubda", "rw",
			"init=/bin/sh", "--", "-c", script)
		m.Expect(time.Minute, `synced 1\r?\n`)
		time.Sleep(time.Duration(rnd.Intn(1500)) * time.Millisecond)
		m.Signal(syscall.SIGKILL)
		if code := m.Wait(time.Minute); code != 137 {
			t.Fatalf("exit status %d, want 137", code)
		}
		last := 1
		for _, match := range regexp.MustCompile(`synced (\d+)\r?\n`).FindAllStringSubmatch(m.Terminal(), -1) {
			last, _ = strconv.Atoi(match[1])
		}
		// 0 clean, 1 mended: anything else is not mended.
		out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fy", image).CombinedOutput()
		if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() > 1) {
			t.Fatalf("round %d: e2fsck -fy: %v\n%s", i, err, out)
		}
		oracle.Fsck(t, image)
		for n := 1; n <= last; n++ {
			got := oracle.Run(t, "debugfs", "-R", fmt.Sprintf("cat /load/d%d/file", n), image)
			if want := fmt.Sprintf("content %d\n", n); !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(want)).MatchString(got) {
				t.Fatalf("round %d: %d directories were synced, but d%d/file holds %q\ne2fsck said:\n%s", i, last, n, got, out)
			}
			for _, name := range []string{"moved", "link"} {
				if got := oracle.Run(t, "debugfs", "-R", fmt.Sprintf("stat /load/d%d/%s", n, name), image); !regexp.MustCompile(`Inode: \d+`).MatchString(got) {
					t.Fatalf("round %d: d%d/%s was synced and is lost: %s\ne2fsck said:\n%s", i, n, name, got, out)
				}
			}
		}
		if err := os.Remove(image); err != nil {
			t.Fatal(err)
		}
	}
}
