package ext4

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Free visits what dumpe2fs lists as free, twice the same, and stops when it is told to.
func TestFree(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir)
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext4", "-b", "1024", "-O", "^flex_bg"}, {"-t", "ext2", "-b", "2048"}} {
		image := makeImage(t, 64<<20, append(args, "-d", dir)...)
		fs := openFS(t, image, Options{ReadOnly: true, NoWrite: true})
		want := freeBlocks(t, image)
		for range 2 {
			got := map[uint64]bool{}
			err := fs.Free(t.Context(), func(off, n int64) bool {
				for b := off / int64(fs.BlockSize()); b < (off+n)/int64(fs.BlockSize()); b++ {
					got[uint64(b)] = true
				}
				return true
			})
			if err != nil || len(got) != len(want) {
				t.Fatalf("%v: %d blocks, want %d, %v", args, len(got), len(want), err)
			}
			for b := range want {
				if !got[b] {
					t.Fatalf("%v: block %d is missing", args, b)
				}
			}
		}
		calls := 0
		if err := fs.Free(t.Context(), func(int64, int64) bool { calls++; return false }); err != nil || calls != 1 {
			t.Errorf("%d calls, %v", calls, err)
		}
		closeFS(t, fs)
	}
}

// freeBlocks are the blocks that dumpe2fs lists as free.
func freeBlocks(t *testing.T, image string) map[uint64]bool {
	t.Helper()
	free := map[uint64]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  Free blocks: (.+)$`).FindAllStringSubmatch(tool(t, "dumpe2fs", image), -1) {
		for _, part := range strings.Split(m[1], ", ") {
			first, last, ok := strings.Cut(part, "-")
			if !ok {
				last = first
			}
			a, err := strconv.ParseUint(first, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			b, err := strconv.ParseUint(last, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			for ; a <= b; a++ {
				free[a] = true
			}
		}
	}
	return free
}
