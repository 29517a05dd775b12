package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// A size that is none, is negative, or that nothing can have, wherever one is asked for: one
// line, status 2 or, where only the image tells, 1, and nothing is made.
func TestBadSizes(t *testing.T) {
	dir := t.TempDir()
	image := smallImage(t, dir)
	t.Chdir(dir)
	must(t, "create", "--blank", "--size", "8M", "blank.img")
	must(t, "partition", "create", "blank.img", "4M")
	before, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []string{
		"-1", "0", "1", "511", "x", "K", "1e3", "1.5G", "0x10", " 1M", "1 M", "1M ", "+", "--1M", "9223372036854775807", "9223372036854775808", "18446744073709551616",
		"9007199254740992K", "8388608T", "16777216T", "8E", "99999999999999999999G", "1M2", "1\n2",
	} {
		for _, args := range [][]string{
			{"create", "--blank", "--size=" + size, "new.img"}, {"create", "--from", "none", "--size=" + size, "new.img"}, {"resize", image, size}, {"resize", "--shrink", image, size},
			{"resize", "--disk-only", image, size}, {"resize", "blank.img#1", size}, {"partition", "create", "--force", "blank.img", size}, {"partition", "create", "--force", "--table", "mbr", "blank.img", size},
			{"measure", "--size=" + size}, {"measure", "-O", "qcow2", "--cluster-size=" + size, image}, {"create", "--fs-option", "block-size=" + size, "--from", dir, "new.img"},
			{"create", "--fs-option", "inode-ratio=" + size, "--from", dir, "--size", "16M", "new.img"}, {"create", "--fs-option", "journal=" + size, "--from", dir, "--size", "16M", "new.img"},
			{"bench", "--size=" + size, "--count", "1", image}, {"bench", "--step=" + size, "--count", "2", image}, {"bench", "--offset=" + size, "--count", "1", image},
		} {
			if fits(args, size) {
				continue
			}
			status, _, stderr := call(args...)
			if status != 1 && status != 2 || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "panic") {
				t.Errorf("%q: status %d, %q", args, status, stderr)
			}
			if _, err := os.Lstat("new.img"); err == nil {
				t.Fatalf("%q has made an image", args)
			}
		}
		if err := compareSnapshots(dir, before); err != nil {
			t.Fatalf("size %q: %v", size, err)
		}
	}
	for _, text := range []string{"-1", "x", "9223372036854775808", "99999999999999999999G", "1.5G", fmt.Sprint(1 << 60)} {
		for _, args := range [][]string{{"map", "--start-offset=" + text, image}, {"map", "--max-length=" + text, image}, {"find", image + ":/", "-size", "+" + text + "Q"}} {
			if text == fmt.Sprint(1<<60) && args[0] == "map" && strings.HasPrefix(args[1], "--max") {
				continue // more than there is shows all
			}
			if status, _, stderr := call(args...); status != 2 || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%q: status %d, %q", args, status, stderr)
			}
		}
	}
}

// A file as long as a number can say, which hosts with tmpfs, XFS or btrfs have: its size
// is not taken for a negative one.
func TestLongestFile(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir)
	t.Cleanup(func() { oracle.Unmount(t, dir) })
	long, other, cow := filepath.Join(dir, "long"), filepath.Join(dir, "other.img"), filepath.Join(dir, "x.cow")
	must(t, "create", "--blank", "--size", "1M", other)
	must(t, "cow", "create", cow, other)
	for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 511} {
		if err := os.WriteFile(long, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(long, size); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"info", long}, {"map", long}, {"check", long}, {"compare", long, other}, {"compare", other, long}, {"measure", long}, {"ls", long}, {"cow", "create", long + ".cow", long},
			{"cow", "rebase", "-b", long, cow}, {"convert", long, long + ".img"}, {"convert", "-O", "qcow2", long, long + ".img"}, {"partition", "list", long}, {"partition", "create", long, "rest"},
			{"sparsify", long}, {"bench", "-c", "1", long}, {"diff", long, other, "-o", long + ".cow"}, {"diff", other, long, "-o", long + ".cow"}, {"resize", "--disk-only", long, "+1M"},
			{"serve", "--nbd", "unix:" + long + ".sock", long},
		} {
			status, stdout, stderr := call(args...)
			if status != 1 && !(status == 2 && args[0] == "compare") || stdout != "" || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, " -9223") {
				t.Errorf("%q: status %d, %q, %q", args, status, stdout, stderr)
			}
		}
		if left, _ := os.ReadDir(dir); len(left) != 3 {
			t.Errorf("left are %v", left)
		}
	}
}

// fits says that an option takes a size that others refuse.
func fits(args []string, size string) bool {
	line := strings.Join(args, " ")
	if strings.Contains(line, "step") && size == "9223372036854775807" {
		return true // it begins anew where the disk ends
	}
	switch size {
	case "0":
		return strings.Contains(line, "offset") || strings.Contains(line, "step")
	case "1", "511":
		return args[0] == "bench" || strings.Contains(line, "inode-ratio") || strings.Contains(line, "journal")
	}
	return false
}
