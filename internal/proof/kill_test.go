package proof

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

func itoa(n int) string { return strconv.Itoa(n) }

// killedScript is the guest's loop. It makes files of several kinds, syncs, and says so:
// what it has said is what must be found. Beside it another one writes, appends, cuts
// and removes without end and syncs nothing.
const killedScript = `mkdir -p /load /other; ` +
	`while true; do seq 1 30000 >/other/a; cp /other/a /other/b; seq 1 500 >>/other/b; truncate -s 5000 /other/a; ` +
	`mv /other/b /other/c; rm -f /other/c /other/a; done & ` +
	`n=0; while true; do n=$((n+1)); mkdir /load/d$n; ` +
	`echo content $n >/load/d$n/file; seq 1 2000 >/load/d$n/long; ln -s file /load/d$n/link; ` +
	`mv /load/d$n/long /load/d$n/moved; rm -rf /load/scratch; mkdir /load/scratch; echo y >/load/scratch/y; ` +
	`sync; echo synced $n; done`

// TestKilledAtAnyMoment kills a machine that writes, on a raw image and on a COW file in
// turn. The journal alone then makes the disk whole, and what was synced is on it.
func TestKilledAtAnyMoment(t *testing.T) {
	rounds := 20
	if oracle.Nightly() {
		rounds = 200
	}
	var u user
	dir := u.workdir(t)
	base := filepath.Join(dir, "base.img")
	u.run(t, guest.Binary(t, "umlimg"), "create", "--size", "256M", "--umlbox", guest.Binary(t, "umlbox"), base)
	rnd := rand.New(rand.NewSource(oracle.Seed(t)))
	var long strings.Builder
	for i := 1; i <= 2000; i++ {
		fmt.Fprintln(&long, i)
	}
	for i := range rounds {
		image, cow := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.cow")
		disk := image
		if i%2 == 0 {
			oracle.Run(t, "cp", "--sparse=always", base, image)
		} else {
			disk = cow + "," + base
		}
		m := guest.Start(t, guest.Binary(t, "linux"), "mem=256M", "uml_dir="+dir, "ubd0="+disk, "root=/dev/ubda", "rw",
			"init=/bin/sh", "--", "-c", killedScript)
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
		if i%2 == 1 {
			u.run(t, guest.Binary(t, "uml_moo"), cow, image)
			if err := os.Remove(cow); err != nil {
				t.Fatal(err)
			}
		}
		said := replayJournal(t, image)
		oracle.Fsck(t, image)
		var commands strings.Builder
		for n := 1; n <= last; n++ {
			fmt.Fprintf(&commands, "cat /load/d%d/file\ncat /load/d%d/moved\nstat /load/d%d/link\n", n, n, n)
		}
		got := debugfs(t, image, commands.String())
		for n := 1; n <= last; n++ {
			for k, want := range []string{fmt.Sprintf("content %d\n", n), long.String(), `Fast link dest: "file"`} {
				if answer := got[3*(n-1)+k]; !strings.Contains(answer, want) {
					t.Fatalf("round %d: %d directories were synced, but of d%d debugfs says %.300q\ne2fsck said:\n%s", i, last, n, answer, said)
				}
			}
		}
		if err := os.Remove(image); err != nil {
			t.Fatal(err)
		}
	}
}

// replayJournal lets e2fsck replay the journal and free what was open or half cut, and
// look no further; it returns what that said.
func replayJournal(t testing.TB, image string) string {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-p", image).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() > 1) {
		t.Fatalf("e2fsck -p: %v\n%s", err, out)
	}
	return string(out)
}

// debugfs runs commands, one a line, on an image, and returns what each one said.
func debugfs(t testing.TB, image, commands string) []string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(script, []byte(commands), 0o644); err != nil {
		t.Fatal(err)
	}
	answers := strings.Split(oracle.Run(t, "debugfs", "-f", script, image), "debugfs: ")[1:]
	if want := strings.Count(commands, "\n"); len(answers) != want {
		t.Fatalf("debugfs gave %d answers to %d commands", len(answers), want)
	}
	return answers
}
