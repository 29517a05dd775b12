package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// patterned is an image of size bytes in which data, zeros and holes alternate.
func patterned(t testing.TB, path string, size int64, seed uint64) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += 1 + r.Int64N(300<<10) {
		b := make([]byte, min(size-off, 1+r.Int64N(100<<10)))
		if r.IntN(3) > 0 {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// endless is a qcow2 image of 64 GiB, all of which is one cluster: long work from a small
// file.
func endless(t testing.TB, path string) string {
	t.Helper()
	const cluster = 64 << 10
	be := binary.BigEndian
	b := make([]byte, 4*cluster)
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 2)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 64<<30)
	be.PutUint32(b[36:], 128)
	be.PutUint64(b[40:], cluster)
	for i := range 128 {
		be.PutUint64(b[cluster+i*8:], 2*cluster)
	}
	for i := range cluster / 8 {
		be.PutUint64(b[2*cluster+i*8:], 3*cluster)
	}
	copy(b[3*cluster:], strings.Repeat("some words and more of them ", cluster/28))
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Random disks go to every format over every backing file, and are the same to QEMU.
func TestConvertRandom(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	dir := t.TempDir()
	for i, size := range []int64{512, 3<<20 + 512*7, 20 << 20} {
		name := func(s string) string { return filepath.Join(dir, fmt.Sprint(i, s)) }
		disk := patterned(t, name("disk"), size, seed)
		base := patterned(t, name("base"), size, seed+1)
		// Half of them is alike.
		oracle.Run(t, "dd", "if="+disk, "of="+base, "bs=512", fmt.Sprint("count=", size/1024), "conv=notrunc", "status=none")
		convert := func(args ...string) {
			t.Helper()
			if status, out, stderr := call(append([]string{"convert", "--no-sync"}, args...)...); status != 0 || out+stderr != "" {
				t.Fatalf("seed %d: %v: status %d, %s%s", seed, args, status, out, stderr)
			}
		}
		convert("-O", "cow", "-b", base, disk, name("cow"))
		convert("-O", "qcow2", "-b", base, disk, name("over"))
		convert("-O", "qcow2", "-c", name("cow"), name("packed"))
		convert("-O", "qcow2", "-c", "-b", name("over"), base, name("back"))
		convert("-O", "cow", "-b", base, name("over"), name("cow2"))
		convert(name("cow2"), name("raw"))
		for _, image := range []string{"over", "packed", "back"} {
			oracle.Run(t, "qemu-img", "check", "-q", name(image))
		}
		for _, image := range []string{"over", "packed"} {
			oracle.Run(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", name(image), disk)
		}
		oracle.Run(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", name("back"), base)
		oracle.Run(t, "cmp", name("raw"), disk)
	}
}

// An interrupted or killed conversion leaves nothing, and what was there stays.
func TestConvertSignals(t *testing.T) {
	src := endless(t, filepath.Join(t.TempDir(), "endless"))
	for _, to := range []string{"raw", "qcow2"} {
		for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL} {
			dir := t.TempDir()
			old := filepath.Join(dir, "new")
			if err := os.WriteFile(old, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"convert", "--force", "-O", to, src, old}
			if to == "qcow2" {
				args = slices.Insert(args, 1, "-c")
			}
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, "umlimg writes", func() bool {
				fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
				return slices.ContainsFunc(fds, func(fd string) bool {
					name, _ := os.Readlink(fd)
					info, err := os.Stat(fd)
					return err == nil && strings.HasPrefix(name, dir) && info.Sys().(*syscall.Stat_t).Blocks > 16
				})
			})
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			stop := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
			cmd.Wait()
			if !stop.Stop() {
				t.Fatalf("%v does not end it", sig)
			}
			if want := "umlimg: convert " + src + ": interrupted\n"; sig != unix.SIGKILL && (cmd.ProcessState.ExitCode() != statusInterrupted || stderr.String() != want) {
				t.Errorf("%v: status %d, %q, want %q", sig, cmd.ProcessState.ExitCode(), &stderr, want)
			}
			left, err := os.ReadDir(dir)
			if text, rerr := os.ReadFile(old); err != nil || rerr != nil || len(left) != 1 || string(text) != "old" {
				t.Errorf("%v: it leaves %v, %q", sig, left, text)
			}
		}
	}
}

// A disk that is full midway is one line, and nothing is left; so are files without
// permission.
func TestConvertFull(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	disk := patterned(t, filepath.Join(dir, "disk"), 24<<20, 1)
	base := filepath.Join(dir, "base")
	oracle.Run(t, "truncate", "-s", "24M", base)
	small := t.TempDir()
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small)
	t.Cleanup(func() { oracle.Unmount(t, small) })
	out := filepath.Join(small, "new")
	for _, args := range [][]string{{}, {"-O", "qcow2"}, {"-O", "qcow2", "-c"}, {"-O", "cow", "-b", base}} {
		status, _, stderr := call(append(append([]string{"convert"}, args...), disk, out)...)
		if status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "no space left on device") || !strings.HasPrefix(stderr, "umlimg: convert "+disk+": ") {
			t.Errorf("%v: status %d, %q", args, status, stderr)
		}
		if left, err := os.ReadDir(small); err != nil || len(left) != 0 {
			t.Errorf("%v: it leaves %v, %v", args, left, err)
		}
	}
}

// What an ordinary user may not read or write is named.
func TestConvertPermissions(t *testing.T) {
	oracle.NeedsRoot(t)
	umlimg := guest.Binary(t, "umlimg")
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	open, secret := patterned(t, filepath.Join(dir, "open"), 1<<20, 1), patterned(t, filepath.Join(dir, "secret"), 1<<20, 2)
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	over := filepath.Join(dir, "over")
	oracle.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, over)
	own := filepath.Join(dir, "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"source":   {[]string{"convert", secret, filepath.Join(own, "new")}, "convert " + secret + ": permission denied"},
		"backing":  {[]string{"convert", over, filepath.Join(own, "new")}, "convert " + over + ": backing file of " + over + ": open " + secret + ": permission denied"},
		"target":   {[]string{"convert", open, filepath.Join(dir, "new")}, "convert " + open + ": create " + filepath.Join(dir, "new") + ": permission denied"},
		"sparsify": {[]string{"sparsify", open}, "sparsify " + open + ": permission denied"},
		"resize":   {[]string{"resize", "--disk-only", open, "2M"}, "resize " + open + ": permission denied"},
	} {
		out, err := ordinary(t, own, append([]string{umlimg}, c.args...)...).CombinedOutput()
		if err == nil || string(out) != "umlimg: "+c.want+"\n" {
			t.Errorf("%s: %v, %q, want %q", name, err, out, c.want)
		}
		if left, _ := os.ReadDir(own); len(left) != 0 {
			t.Errorf("%s: it leaves %v", name, left)
		}
	}
}

// A disk that a machine writes to is not read, and a file that one uses not replaced; both
// stay as they are.
func TestConvertInUse(t *testing.T) {
	dir := t.TempDir()
	disk, other := patterned(t, filepath.Join(dir, "disk"), 1<<20, 1), patterned(t, filepath.Join(dir, "other"), 1<<20, 2)
	before, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	held, err := ubdfmt.OpenRaw(other, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, args := range [][]string{
		{"convert", other, filepath.Join(dir, "new")}, {"convert", "--force", disk, other}, {"convert", "-O", "cow", "-b", other, disk, filepath.Join(dir, "new")},
		{"sparsify", other}, {"sparsify", "--zeros", other}, {"resize", "--disk-only", other, "2M"},
	} {
		status, _, stderr := call(args...)
		if want := fmt.Sprintf("process %d holds it\n", os.Getpid()); status != 1 || !strings.HasSuffix(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: status %d, %q, want %q", args, status, stderr, want)
		}
	}
	if after, err := os.ReadFile(other); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file changed, %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("it leaves %v", left)
	}
}

// On a host that can share blocks an image takes no space of its own.
func TestConvertClones(t *testing.T) {
	oracle.NeedsRoot(t)
	host := filepath.Join(t.TempDir(), "host")
	oracle.Run(t, "truncate", "-s", "512M", host)
	oracle.Run(t, "mkfs.xfs", "-q", "-m", "reflink=1", host)
	dir := oracle.Mount(t, host, "")
	disk := patterned(t, filepath.Join(dir, "disk"), 32<<20+512, 1)
	qcow := filepath.Join(dir, "qcow")
	oracle.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, qcow)
	free := func() uint64 {
		var st unix.Statfs_t
		unix.Sync()
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return st.Bfree * uint64(st.Bsize)
	}
	for _, from := range []string{disk, qcow} {
		before, out := free(), filepath.Join(dir, "new")
		must(t, "convert", "--force", from, out)
		if took := int64(before - free()); took > 4<<20 {
			t.Errorf("%s: the new image took %d bytes", from, took)
		}
		oracle.Run(t, "cmp", out, disk)
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
	}
}

// A sparsify that is killed leaves a good image; again, it ends the same.
func TestSparsifyKilled(t *testing.T) {
	dir := t.TempDir()
	tree, _ := sources(t)
	image := filepath.Join(dir, "disk.img")
	must(t, "create", "--from", tree, "--as-is", "--size", "64M", image)
	big := patterned(t, filepath.Join(dir, "big"), 24<<20, 1)
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("write "+big+" one\nwrite "+big+" two\nrm one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "debugfs", "-w", "-f", script, image)
	kept := oracle.Run(t, "debugfs", "-R", "cat two", image)
	killed := false
	for i := 0; i < 20; i++ {
		cmd := exec.Command(os.Args[0], "sparsify", image)
		cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(3*i) * time.Millisecond)
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			break
		}
		killed = true
	}
	if !killed {
		t.Log("no kill came in time")
	}
	must(t, "sparsify", image)
	oracle.Fsck(t, image)
	if oracle.Run(t, "debugfs", "-R", "cat two", image) != kept {
		t.Error("a file changed")
	}
	if n, err := allocated(image); err != nil || n > 28<<20 {
		t.Errorf("the image takes %d bytes, %v", n, err)
	}
}

// Zeros that a COW file holds in a part of a block become holes no further than that part:
// behind it the backing file shows.
func TestSparsifyPartOfBlock(t *testing.T) {
	dir := t.TempDir()
	base, cow := filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow")
	if err := os.WriteFile(base, bytes.Repeat([]byte("base"), 1<<18), 0o644); err != nil {
		t.Fatal(err)
	}
	dev, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{8192, 40960} {
		if _, err := dev.WriteAt(make([]byte, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := ubdfmt.ReadHeader(cow)
	if err != nil {
		t.Fatal(err)
	}
	// A bit is a sector: of the one block the first half is held, of the other the last.
	f, err := os.OpenFile(cow, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for off, bits := range map[int64]byte{8192: 0x0f, 40960: 0xf0} {
		if _, err := f.WriteAt([]byte{bits}, h.Layout().BitmapOffset+off/4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	was := filepath.Join(dir, "was.img")
	must(t, "convert", cow, was)
	must(t, "sparsify", "--zeros", cow)
	if status, stdout, stderr := call("compare", cow, was); status != 0 {
		t.Errorf("the disk has changed: %s%s", stdout, stderr)
	}
}
