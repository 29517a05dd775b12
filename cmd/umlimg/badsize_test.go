package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
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
