package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// What e2fsck says of the copy that leaves out files' data is what it says of the whole
// disk, whatever is damaged.
func TestCheckSketch(t *testing.T) {
	runs := 12
	if oracle.Nightly() {
		runs = 400
	}
	seed := uint64(oracle.Seed(t))
	dir := t.TempDir()
	base := filepath.Join(dir, "base.img")
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", "ea_inode,inline_data", "-d", checkTree(t), base, "16M")
	for i := range 20 { // free blocks that hold something
		oracle.Run(t, "debugfs", "-w", "-R", fmt.Sprintf("rm /d%d/file%d", (i+30)%7, i+30), base)
	}
	// mke2fs forgets to count the blocks of large values, and debugfs to free them.
	_ = exec.Command(oracle.Tool(t, "e2fsck"), "-fy", base).Run()
	oracle.Fsck(t, base)
	damaged := 0
	for i := range runs {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		cow, merged := filepath.Join(dir, fmt.Sprint(i, ".cow")), filepath.Join(dir, "merged.img")
		dev, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		used := usedBlocks(t, base)
		for range i % 5 { // sound at first
			b := make([]byte, 1+r.IntN(40))
			for j := range b {
				b[j] = byte(r.IntN(256))
			}
			off := used[r.IntN(len(used))]*1024 + int64(r.IntN(1024-len(b)))
			if _, err := dev.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		if err := ubdfmt.Merge(t.Context(), cow, merged, ubdfmt.MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		want, got := checkJSON(t, merged), checkJSON(t, cow)
		if got.FileSystem == nil || want.FileSystem == nil {
			// The superblock's magic number was hit.
			if got.FileSystem != want.FileSystem {
				t.Errorf("seed %d, run %d: %+v, of the whole disk %+v", seed, i, got, want)
			}
			continue
		}
		if !got.FileSystem.Clean {
			damaged++
		}
		if got.FileSystem.Clean != want.FileSystem.Clean || !slices.Equal(got.FileSystem.Messages, want.FileSystem.Messages) {
			t.Errorf("seed %d, run %d: %+v\nof the whole disk %+v", seed, i, got.FileSystem, want.FileSystem)
		}
		err = exec.Command(oracle.Tool(t, "e2fsck"), "-fn", merged).Run()
		if (err == nil) != got.FileSystem.Clean && !got.FileSystem.Replayed {
			t.Errorf("seed %d, run %d: e2fsck: %v, we say clean: %v", seed, i, err, got.FileSystem.Clean)
		}
	}
	if damaged == 0 || damaged == runs {
		t.Errorf("seed %d: %d of %d file systems were damaged: both must be", seed, damaged, runs)
	}
}

// checkTree is a tree with files of many blocks, large attributes, links and directories.
func checkTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 60 {
		sub := filepath.Join(dir, fmt.Sprint("d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(sub, fmt.Sprint("file", i))
		if err := os.WriteFile(name, bytes.Repeat([]byte{byte(i), 1}, i*900), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(strings.Repeat("x", 10+i*5), name+".link"); err != nil {
			t.Fatal(err)
		}
		if i%9 == 0 {
			if err := unix.Setxattr(name, "user.big", bytes.Repeat([]byte("v"), 3000), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// usedBlocks are the blocks of 1024 bytes that the file has.
func usedBlocks(t *testing.T, path string) (used []int64) {
	t.Helper()
	dev, err := ubdfmt.OpenRaw(path, ubdfmt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	err = dev.Extents(0, dev.Size(), func(e ubdfmt.Extent) bool {
		for off := e.Offset; e.File != nil && off < e.Offset+e.Length; off += 1024 {
			used = append(used, off/1024)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

func checkJSON(t *testing.T, image string) (r checkResult) {
	t.Helper()
	_, stdout, _ := call("check", "--json", image)
	if stdout == "" {
		return r // nothing to check
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// The copy has next to nothing of files' data.
func TestCheckSketchIsSmall(t *testing.T) {
	tree, image := t.TempDir(), filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(filepath.Join(tree, "large"), bytes.Repeat([]byte("large"), 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "create", "--from", tree, "--as-is", "--size", "64M", image)
	if err := os.WriteFile(filepath.Join(tree, "gone"), bytes.Repeat([]byte("gone!"), 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "debugfs", "-w", "-R", "write "+filepath.Join(tree, "gone")+" gone", image)
	oracle.Run(t, "debugfs", "-w", "-R", "rm gone", image)
	dev, err := ubdfmt.OpenRaw(image, ubdfmt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	f, err := sketch(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Size != 64<<20 || st.Blocks*512 > 4<<20 {
		t.Errorf("%d bytes in %d, %d links, %v", st.Size, st.Blocks*512, st.Nlink, err)
	}
}

// A journal with changes that are not in place is replayed in the copy, and the image stays
// as it is.
func TestCheckReplays(t *testing.T) {
	dir := t.TempDir()
	crashed := dirtyImage(t, dir)
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := checkJSON(t, crashed); got.FileSystem == nil || !got.FileSystem.Clean || !got.FileSystem.Replayed {
		t.Errorf("%+v", got.FileSystem)
	}
	if err := compareSnapshots(dir, before); err != nil {
		t.Error(err)
	}
	// e2fsck itself does not replay what it may not write.
	if out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", crashed).CombinedOutput(); !strings.Contains(string(out), "skipping journal recovery") {
		t.Errorf("the journal is clean: %v\n%s", err, out)
	}
}

// Without e2fsck a raw image cannot be checked, and a COW file without its file system.
func TestCheckWithoutFsck(t *testing.T) {
	dir := t.TempDir()
	image, cow := smallImage(t, dir), filepath.Join(dir, "disk.cow")
	if err := ubdfmt.CreateCOW(cow, image, ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	had := fsckNames
	defer func() { fsckNames = had }()
	fsckNames = []string{filepath.Join(dir, "e2fsck")}
	if status, _, stderr := call("check", image); status != checkUnsupported || !strings.HasSuffix(stderr, "e2fsck, which would check its ext4 file system, is not installed\n") {
		t.Errorf("an image: status %d, %s", status, stderr)
	}
	if status, stdout, stderr := call("check", cow); status != 0 || !strings.HasSuffix(stdout, "ext4 file system: not checked, as e2fsck is not installed\n") {
		t.Errorf("a COW file: status %d, %s%s", status, stdout, stderr)
	}
}

// What a machine uses is not looked at, or only if it is said that it may be.
func TestLooksAtLocked(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	cow := filepath.Join(dir, "disk.cow")
	held, err := ubdfmt.Open(cow, image, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, c := range []struct {
		args         []string
		want, forced int // forced < 0: the command knows no --force-share
	}{
		{[]string{"info", cow}, 0, -1}, {[]string{"map", cow}, 1, 0}, {[]string{"compare", cow, image}, 2, 0}, {[]string{"compare", image, cow}, 2, 0},
		{[]string{"measure", cow}, 1, 0}, {[]string{"check", cow}, 1, -1}, {[]string{"check", "-r", cow}, 1, -1}, {[]string{"bench", cow}, 1, -1},
		{[]string{"commit", cow}, 1, -1}, {[]string{"cow", "rebase", "--unsafe", cow}, 1, -1}, {[]string{"diff", image, cow, "-o", cow + "2"}, 1, -1},
	} {
		before, err := snapshot(dir)
		if err != nil {
			t.Fatal(err)
		}
		status, _, stderr := call(c.args...)
		if status != c.want || status != 0 && !strings.Contains(stderr, "holds it") {
			t.Errorf("%q: status %d, want %d: %s", c.args, status, c.want, stderr)
		}
		if c.forced >= 0 {
			forced := append([]string{c.args[0], "--force-share"}, c.args[1:]...)
			if status, _, stderr := call(forced...); status != c.forced || stderr != "" {
				t.Errorf("%q: status %d, want %d: %s", forced, status, c.forced, stderr)
			}
		}
		if err := compareSnapshots(dir, before); err != nil {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}

// A block device is an image, and can be the backing file of a COW file.
func TestBlockDevice(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	disks(t, dir, 8<<20)
	image := filepath.Join(dir, "new.img")
	device := strings.TrimSpace(oracle.Run(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { oracle.Run(t, "losetup", "-d", device) })
	cow := filepath.Join(dir, "device.cow")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"info", device}, "virtual size: 8M (8388608 bytes)\nfile size: 8M (8388608 bytes)\ndisk size: 0 (0 bytes)\n"},
		{[]string{"map", device}, "0x0             0x800000        0      data     0x0             " + device + "\n"},
		{[]string{"compare", device, image}, "Images are identical.\n"},
		{[]string{"check", device}, "No errors were found on the image.\next4 file system: clean"},
		{[]string{"cow", "create", cow, device}, ""},
		{[]string{"info", cow}, "virtual size: 8M (8388608 bytes)\n"},
		{[]string{"check", cow}, "0/2048 = 0.00% allocated\next4 file system: clean"},
		{[]string{"compare", cow, image}, "Images are identical.\n"},
		{[]string{"measure", "-O", "cow", device}, "fully allocated size: 10485760\n"},
		{[]string{"bench", "-q", "-c", "100", device}, ""},
	} {
		if status, stdout, stderr := call(c.args...); status != 0 || stderr != "" || !strings.Contains(stdout, c.want) {
			t.Errorf("%q: status %d, %q, %s", c.args, status, stdout, stderr)
		}
	}
}
