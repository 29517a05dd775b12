package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// TestResizeKilled kills resizing at random moments: running it again finishes it, and every
// file is there. Where there is a journal e2fsck can take its place.
func TestResizeKilled(t *testing.T) {
	kills := 5
	if oracle.Nightly() {
		kills = 100
	}
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), []byte(strings.Repeat(fmt.Sprint(i, " "), 1+i*20)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"ext4", "ext2"} {
		image := filepath.Join(dir, kind+".img")
		must(t, "create", "--from", tree, "--as-is", "--size", "200M", "--fs-option", "type="+kind, "--fs-option", "block-size=1024", image)
		killed := 0
		for i := range kills {
			size := []string{"12M", "1500M"}[i%2]
			args := []string{"resize", image, size}
			if i%2 == 0 {
				args = []string{"resize", "--shrink", image, size}
			}
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
			_ = cmd.Process.Kill()
			if cmd.Wait() != nil {
				killed++
			}
			what := fmt.Sprintf("seed %d, %s, kill %d", seed, kind, i)
			if kind == "ext4" && i%2 == 0 {
				preen(t, what, image)
			}
			if status, _, stderr := call(args...); status != 0 {
				t.Fatalf("%s: again: %s", what, stderr)
			}
			oracle.Fsck(t, image)
			if info, err := os.Stat(image); err != nil || info.Size() != map[string]int64{"12M": 12 << 20, "1500M": 1500 << 20}[size] {
				t.Fatalf("%s: size %d, %v", what, info.Size(), err)
			}
		}
		if killed == 0 {
			t.Logf("seed %d: no kill of %s came in time", seed, kind)
		}
		out := filepath.Join(dir, kind+"-out")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, "debugfs", "-R", "rdump / "+out, image)
		oracle.Run(t, "diff", "-r", "-x", "lost+found", tree, out)
	}
}

// A partition that is resized is as sound, and its table too, whenever a kill comes.
func TestResizePartitionKilled(t *testing.T) {
	kills := 3
	if oracle.Nightly() {
		kills = 60
	}
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 5))
	dir := t.TempDir()
	tree, _ := sources(t)
	for _, kind := range []string{"ext4", "ext2"} {
		image, inner := filepath.Join(dir, kind+".img"), filepath.Join(dir, "inner.img")
		must(t, "create", "--from", tree, "--as-is", "--size", "300M", "--partition", "gpt", "--fs-option", "type="+kind, image)
		must(t, "resize", "--disk-only", image, "+20M") // ext2's log needs room
		must(t, "resize", "--minimum", image+"#1")
		for i := range kills {
			args := []string{"resize", image + "#1", "260M"}
			if i%2 == 1 {
				args = []string{"resize", "--shrink", image + "#1", "40M"}
			}
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			what := fmt.Sprintf("seed %d, %s, kill %d", seed, kind, i)
			if status, _, stderr := call(args...); status != 0 {
				t.Fatalf("%s: again: %s", what, stderr)
			}
			if out := oracle.Run(t, "sgdisk", "-v", image); !strings.Contains(out, "No problems found") {
				t.Errorf("%s: %s", what, out)
			}
			must(t, "convert", "--force", image+"#1", inner)
			oracle.Fsck(t, inner)
			if info, err := os.Stat(inner); err != nil || info.Size() != map[int]int64{0: 260 << 20, 1: 40 << 20}[i%2] {
				t.Fatalf("%s: %d bytes, %v", what, info.Size(), err)
			}
		}
		if got := must(t, "cat", image+"#1:/home/joe/file"); got != "x" {
			t.Errorf("seed %d, %s: the file is %q", seed, kind, got)
		}
	}
}

// What is no raw image, and what another process has, is refused and stays as it is.
func TestResizeRefuses(t *testing.T) {
	dir := t.TempDir()
	image, cow := smallImage(t, dir), filepath.Join(dir, "disk.cow")
	if err := ubdfmt.CreateCOW(cow, image, ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := call("resize", cow, "64M"); status != 1 || !strings.Contains(stderr, "merge the two with uml_moo") {
		t.Errorf("a COW file: status %d, %s", status, stderr)
	}
	held, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := call("resize", image, "64M"); status != 1 || !strings.Contains(stderr, "holds it") {
		t.Errorf("a locked image: status %d, %s", status, stderr)
	}
	held.Close()
	if after, err := os.ReadFile(image); err != nil || string(after) != string(before) {
		t.Errorf("the image changed, %v", err)
	}
}
