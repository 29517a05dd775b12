package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// changing are the commands that may change what they are given, or make something, and
// those that are umlimg's own.
var changing = strings.Fields("chmod chown commit convert cp create edit ln mkdir put resize rm sparsify tar-in completion help version")

// No command that only reads changes anything of an image, of whatever kind it is: a dirty
// journal is not replayed, a COW file without a change stays as it is, as do its backing
// file and the media of others. Each reads something where it can.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	dirty := dirtyImage(t, dir)
	tree, _ := sources(t)
	t.Chdir(dir)
	must(t, "cow", "create", "disk.cow", "disk.img")
	must(t, "put", filepath.Join(tree, "etc/passwd"), "disk.cow:/new")
	must(t, "cow", "create", "dirty.cow", "dirty.img")
	must(t, "convert", "-O", "qcow2", "-b", "disk.img", "disk.cow", "disk.qcow2")
	must(t, "create", "--partition", "gpt", "--from", tree, "--as-is", "--size", "32M", "gpt.img")
	oracle.Run(t, "mke2fs", "-q", "-t", "ext2", "-d", tree, "ext2.img", "8M")
	oracle.Run(t, "mkfs.vfat", "-C", "fat.img", "4096")
	oracle.Run(t, "mcopy", "-i", "fat.img", "-s", filepath.Join(tree, "etc"), "::")
	oracle.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", "iso.img", tree)
	oracle.Run(t, "mksquashfs", tree, "squash.img", "-quiet", "-no-progress")
	// Whoever could write has to leave it alone all the same.
	disks := []string{"disk.img", "dirty.img", "disk.cow", "dirty.cow", "disk.qcow2", "gpt.img#1", "ext2.img", "fat.img", "iso.img", "squash.img"}
	if dirty != filepath.Join(dir, "dirty.img") {
		t.Fatal(dirty)
	}
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{}
	for _, disk := range disks {
		whole, _ := splitPartition(disk)
		media := slices.Contains([]string{"fat.img", "iso.img", "squash.img"}, disk)
		for _, c := range []struct {
			args []string
			says string // on stdout
		}{
			{[]string{"bench", "-c", "10", disk}, "Run completed"}, {[]string{"check", disk}, "clean, says e2fsck"}, {[]string{"check", "--json", disk}, `"clean": true`},
			{[]string{"compare", disk, disk}, "identical"}, {[]string{"compare", "-s", disk, disk}, "identical"},
			{[]string{"info", disk}, "virtual size"}, {[]string{"info", "--json", disk}, "virtual-size"}, {[]string{"info", "--chain", disk}, "virtual size"},
			{[]string{"map", disk}, "0"}, {[]string{"map", "--json", disk}, `"start": 0`}, {[]string{"map", "--svg", "-", disk}, "<svg"},
			{[]string{"measure", disk}, "required size"}, {[]string{"measure", "-O", "qcow2", disk}, "required size"},
			{[]string{"cat", disk + ":/etc/passwd"}, "root:"}, {[]string{"cat", "--json", disk + ":/etc/passwd"}, `"content"`},
			{[]string{"df", disk}, "Use%"}, {[]string{"df", "--json", disk}, `"type"`}, {[]string{"find", disk + ":/"}, "/etc/passwd\n"}, {[]string{"find", "--json", disk + ":/"}, "/etc/passwd"},
			{[]string{"ls", disk}, "etc\n"}, {[]string{"ls", "-lR", disk + ":/"}, "passwd"}, {[]string{"ls", "--json", disk + ":/etc"}, "passwd"},
			{[]string{"stat", disk + ":/etc/passwd"}, "Size: "}, {[]string{"stat", "--json", disk + ":/"}, "directory"}, {[]string{"tar-out", disk + ":/"}, "passwd"},
			{[]string{"cp", disk + ":/etc/passwd", "-"}, "root:"}, {[]string{"partition", "list", whole}, ""},
		} {
			if media && c.args[0] == "check" {
				continue // for others to check
			}
			ran[c.args[0]] = true
			status, stdout, stderr := call(c.args...)
			if want := c.args[0] == "partition" && !strings.HasPrefix(disk, "gpt"); status != 0 != want || !strings.Contains(stdout, c.says) || status == 0 && stderr != "" {
				t.Errorf("%q: status %d, %.300q, %q", c.args, status, stdout, stderr)
			}
		}
		// What writes refuses the media of others, and leaves them alone.
		if media || disk == "disk.qcow2" {
			for _, args := range [][]string{
				{"cp", "disk.img", disk + ":/f"}, {"put", "disk.img", disk + ":/f"}, {"mkdir", disk + ":/d"}, {"rm", disk + ":/etc/passwd"}, {"ln", "-s", "x", disk + ":/l"},
				{"chmod", "755", disk + ":/etc"}, {"chown", "0", disk + ":/etc"}, {"tar-in", disk + ":/"}, {"edit", disk + ":/etc/passwd"},
			} {
				if status, stdout, stderr := call(args...); status != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "read") {
					t.Errorf("%q: status %d, %q, %q", args, status, stdout, stderr)
				}
			}
		}
		// A server, and a client that would write.
		ran["serve"] = true
		s := startServer(t, "--nbd", "unix:s", "--read-only", disk)
		oracle.Run(t, "nbdcopy", s.uri, "null:")
		if out, err := exec.Command(oracle.Tool(t, "qemu-io"), "-f", "raw", "-c", "write 0 512", s.uri).CombinedOutput(); err == nil && !strings.Contains(string(out), "rror") && !strings.Contains(string(out), "ailed") {
			t.Errorf("a write to %s goes well: %s", disk, out)
		}
		s.interrupt(t, unix.SIGINT)
		if err := compareSnapshots(dir, before); err != nil {
			t.Fatalf("a command with %s: %v", disk, err)
		}
	}
	// diff and convert make something else, and only read what they make it of.
	for _, args := range [][]string{{"diff", "disk.img", "dirty.img", "-o", "x"}, {"diff", "disk.img", "disk.cow", "-o", "x"}, {"convert", "dirty.cow", "x"}, {"convert", "-O", "qcow2", "disk.cow", "x"}, {"convert", "-O", "cow", "-b", "disk.img", "dirty.img", "x"}, {"cow", "create", "x", "disk.img"}} {
		must(t, args...)
		ran[args[0]] = true
		if err := os.Remove("x"); err != nil {
			t.Fatal(err)
		}
		if err := compareSnapshots(dir, before); err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%s has changed:\nbefore mode 40", dir)) {
			t.Fatalf("%q: %v", args, err)
		}
	}
	for name := range commands(newApp(nil, nil, nil).Commands, "") {
		if verb, _, _ := strings.Cut(name, " "); !ran[verb] && !slices.Contains(changing, name) {
			t.Errorf("%s is neither known to change something nor proven not to", name)
		}
	}
}
