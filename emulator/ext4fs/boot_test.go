package ext4fs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

var fscheck struct {
	once sync.Once
	path string
	err  error
}

// fscheckBinary builds the program that runs in the guests.
func fscheckBinary(t testing.TB) string {
	t.Helper()
	fscheck.once.Do(func() {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("umlkit-fscheck-%d", os.Geteuid()))
		if fscheck.err = os.MkdirAll(dir, 0o755); fscheck.err != nil {
			return
		}
		fscheck.path = filepath.Join(dir, "fscheck")
		cmd := exec.Command("go", "build", "-o", fscheck.path, "./emulator/ext4fs/internal/fscheck")
		cmd.Dir = oracle.Root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fscheck.err = fmt.Errorf("go build fscheck: %v\n%s", err, out)
		}
	})
	if fscheck.err != nil {
		t.Fatal(fscheck.err)
	}
	return fscheck.path
}

// newImage makes a filesystem with mke2fs that holds fscheck and the directories a
// machine needs. The arguments are mke2fs's; without them blocks are of 4 KiB, which
// are not mke2fs's default for small disks.
func newImage(t testing.TB, size string, args ...string) string {
	t.Helper()
	return imageWith(t, size, nil, args...)
}

// imageWith is newImage with more in it: add puts that below the directory it gets.
func imageWith(t testing.TB, size string, add func(tree string), args ...string) string {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{"dev", "proc", "sys", "tmp", "t", "mnt"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "cp", fscheckBinary(t), tree+"/fscheck")
	if add != nil {
		add(tree)
	}
	image := filepath.Join(dir, "disk.img")
	if args == nil {
		args = []string{"-b", "4096"}
	}
	argv := append([]string{"-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", tree}, args...)
	oracle.Run(t, "mke2fs", append(argv, image, size)...)
	return image
}

// machine is a way to boot.
type machine struct {
	name string
	argv []string
}

func ours(t testing.TB, dir string) machine {
	return machine{"linux", []string{guest.Binary(t, "linux"), "mem=512M", "uml_dir=" + filepath.Join(dir, "uml")}}
}

func realKernel(t testing.TB, dir string) machine {
	return machine{"real kernel", []string{oracle.RealUML(t), "mem=512M", "uml_dir=" + filepath.Join(dir, "uml-real") + "/"}}
}

// run boots m with the disk ubd0 and fscheck as its first process, and returns what
// fscheck printed.
func (m machine) run(t testing.TB, limit time.Duration, disk string, kernel []string, commands ...string) string {
	t.Helper()
	argv := append(append([]string{}, m.argv...), "con=null", "con0=null,fd:1", "quiet", "ubd0="+disk, "root=/dev/ubda", "rw", "init=/fscheck")
	argv = append(append(argv, kernel...), "--")
	argv = append(argv, commands...)
	out, status := guest.Output(t, limit, argv...)
	out = strings.ReplaceAll(out, "\r\n", "\n")
	i := strings.Index(out, "fscheck: exit ")
	if i < 0 || status != 0 {
		t.Fatalf("%s %s: exit status %d\n%s", m.name, strings.Join(commands, " "), status, out)
	}
	if !strings.HasPrefix(out[i:], "fscheck: exit 0\n") {
		t.Fatalf("%s %s failed in the guest:\n%s", m.name, strings.Join(commands, " "), out)
	}
	var lines []string
	for _, l := range strings.Split(out[:i], "\n") {
		// What the kernel says goes to the same terminal.
		if !strings.HasPrefix(l, "[") && !strings.HasPrefix(l, "ext4:") && !strings.HasPrefix(l, "EXT4-fs") && !strings.HasPrefix(l, "Warning: tempdir") && !strings.HasSuffix(l, "Can't lookup blockdev") && !strings.HasSuffix(l, "Can't open blockdev") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "\n")
}

// sameLines compares outputs line by line.
func sameLines(t *testing.T, got, want, gotName, wantName string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	differ := 0
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			if differ++; differ <= 40 {
				t.Errorf("line %d\n%12s: %s\n%12s: %s", i+1, gotName, a, wantName, b)
			}
		}
	}
	if differ > 40 {
		t.Errorf("… and %d more", differ-40)
	}
}

// TestCallsAsOnARealKernel holds several hundred small experiments with the guest's
// filesystem against the same on a real kernel's ext4.
func TestCallsAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	real := newImage(t, "600M")
	want := realKernel(t, dir).run(t, 5*time.Minute, real, nil, "calls", "/t")

	t.Run("raw", func(t *testing.T) {
		image := newImage(t, "600M")
		got := ours(t, dir).run(t, 5*time.Minute, image, nil, "calls", "/t")
		sameLines(t, got, want, "linux", "real kernel")
		oracle.Fsck(t, image)
	})
	t.Run("cow", func(t *testing.T) {
		image := newImage(t, "600M")
		cow := filepath.Join(dir, "disk.cow")
		got := ours(t, dir).run(t, 5*time.Minute, cow+","+image, nil, "calls", "/t")
		sameLines(t, got, want, "linux", "real kernel")
		oracle.Run(t, guest.Binary(t, "uml_moo"), cow, dir+"/merged")
		oracle.Fsck(t, dir+"/merged")
	})
	// Block counts, and what fallocate allows, differ with the form of the filesystem:
	// a real kernel on the same kind of image tells them.
	for name, args := range map[string][]string{
		"small blocks": {"-b", "1024"},
		"no extents":   {"-b", "4096", "-O", "^extent,^64bit"},
	} {
		t.Run(name, func(t *testing.T) {
			want := realKernel(t, dir).run(t, 5*time.Minute, newImage(t, "600M", args...), nil, "calls", "/t")
			image := newImage(t, "600M", args...)
			got := ours(t, dir).run(t, 5*time.Minute, image, nil, "calls", "/t")
			sameLines(t, got, want, "linux", "real kernel")
			oracle.Fsck(t, image)
		})
	}
}

// TestRandomOperations runs random operations on a file against a model, and random
// operations on a tree by several processes.
func TestRandomOperations(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name  string
		args  []string
		cow   bool
		flags string
	}{
		{"raw", nil, false, "data=ordered"},
		{"cow", nil, true, "data=ordered"},
		{"small blocks", []string{"-b", "1024"}, false, "data=ordered"},
		{"no extents", []string{"-b", "4096", "-O", "^extent,^64bit"}, true, "data=ordered"},
		{"data=journal", nil, false, "data=journal,commit=1"},
		{"data=journal cow no extents", []string{"-b", "4096", "-O", "^extent,^64bit"}, true, "data=journal,commit=1"},
		{"data=writeback", nil, false, "data=writeback"},
	} {
		if !nightly && c.flags != "data=ordered" && c.name != "data=journal" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			image := newImage(t, "600M", c.args...)
			disk := image
			cow := filepath.Join(t.TempDir(), "disk.cow")
			if c.cow {
				disk = cow + "," + image
			}
			seed := fmt.Sprint(oracle.Seed(t))
			ours(t, dir).run(t, 5*time.Minute, disk, []string{"rootflags=" + c.flags},
				"fsx", "/t", seed, "3000", "then", "fsx", "/t", seed+"1", "3000", "then", "stress", "/t", seed, "1500", "4")
			if c.cow {
				merged := filepath.Join(t.TempDir(), "merged")
				oracle.Run(t, guest.Binary(t, "uml_moo"), cow, merged)
				image = merged
			}
			oracle.Fsck(t, image)
		})
	}
}

// TestMountAsOnARealKernel mounts a second disk with every option, read-only, twice,
// over and under, and compares with a real kernel.
func TestMountAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	run := func(m machine) string {
		second, third := filepath.Join(t.TempDir(), "b.img"), filepath.Join(t.TempDir(), "c.img")
		oracle.Run(t, "mke2fs", "-q", "-t", "ext4", second, "100M")
		if err := os.WriteFile(third, make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		out := m.run(t, 3*time.Minute, newImage(t, "100M"), []string{"ubd1=" + second, "ubd2=" + third}, "mounts", "/dev/ubdb", "/tmp/m")
		oracle.Fsck(t, second)
		return out
	}
	sameLines(t, run(ours(t, dir)), run(realKernel(t, dir)), "linux", "real kernel")
}

// TestFullDiskAsOnARealKernel fills a disk as a user and as root.
func TestFullDiskAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	for _, blocks := range []string{"4096", "1024"} {
		t.Run("blocks of "+blocks, func(t *testing.T) {
			want := realKernel(t, dir).run(t, 3*time.Minute, newImage(t, "100M", "-b", blocks), nil, "full", "/t/d")
			image := newImage(t, "100M", "-b", blocks)
			sameLines(t, ours(t, dir).run(t, 3*time.Minute, image, nil, "full", "/t/d"), want, "linux", "real kernel")
			oracle.Fsck(t, image)
		})
	}
}

// TestValuesAsOnARealKernel sets attributes whose values lie in inodes of their own.
func TestValuesAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	form := []string{"-b", "4096", "-O", "ea_inode"}
	want := realKernel(t, dir).run(t, time.Minute, newImage(t, "60M", form...), nil, "values", "/t")
	image := newImage(t, "60M", form...)
	sameLines(t, ours(t, dir).run(t, time.Minute, image, nil, "values", "/t"), want, "linux", "real kernel")
	oracle.Fsck(t, image)
}

// TestRootForms boots from disks as mke2fs of several releases makes them and does random
// work on them.
func TestRootForms(t *testing.T) {
	const debian11 = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
	for name, args := range map[string][]string{
		"Debian 11 and 12": {"-O", debian11},
		"Debian 13":        {"-b", "4096", "-O", debian11 + ",metadata_csum_seed,orphan_file"},
		"ext3":             {"-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"},
		"ext2":             {"-b", "4096", "-O", "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"},
		"fast_commit":      {"-b", "4096", "-O", "fast_commit"},
		"quota":            {"-b", "4096", "-O", "quota,project,ea_inode", "-E", "quotatype=usrquota:grpquota:prjquota"},
	} {
		t.Run(name, func(t *testing.T) {
			image := newImage(t, "100M", args...)
			commands := []string{"stress", "/t/s", fmt.Sprint(len(name)), "250", "2"}
			if name == "quota" {
				// mke2fs counts no files of -d; e2fsck does, and exits with 1 for it.
				_ = exec.Command(oracle.Tool(t, "e2fsck"), "-fy", image).Run()
				oracle.Fsck(t, image)
				commands = append(commands, "then", "values", "/t/v", "then", "projects", "/t/p")
			}
			out := ours(t, t.TempDir()).run(t, time.Minute, image, nil, commands...)
			if name == "quota" {
				want := "link: EXDEV\nrename: EXDEV\nexchange: EXDEV\nrename out: ok\nrename back: ok\nremove: ok\n"
				if !strings.HasSuffix(out, want) {
					t.Errorf("projects:\n%s", out)
				}
			}
			oracle.Fsck(t, image)
		})
	}
}

// TestReadOnlyForms boots, though rw is asked for, read-only from a disk with a feature
// that can only be read.
func TestReadOnlyForms(t *testing.T) {
	image := newImage(t, "100M", "-b", "4096", "-O", "verity")
	argv := append(ours(t, t.TempDir()).argv, "con=null", "con0=null,fd:1", "ubd0="+image, "root=/dev/ubda", "rw", "init=/fscheck", "--", "remove", "/nothing")
	out, status := guest.Output(t, time.Minute, argv...)
	for _, want := range []string{"cannot write a filesystem with verity", "Mounted root (ext4 filesystem) readonly", "fscheck: exit"} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("exit status %d, want %q:\n%s", status, want, out)
		}
	}
}

// TestQuotaOfARealKernel changes one disk with quotas by turns with a real kernel, whose
// quota files are modules. e2fsck agrees with the usage after each.
func TestQuotaOfARealKernel(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "quota.img")
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "quota,project,ea_inode", "-E", "quotatype=usrquota:grpquota:prjquota", disk, "60M")
	root := newImage(t, "60M")
	modules := []string{"modules"}
	for _, name := range []string{"quota_tree.ko", "quota_v2.ko"} {
		var found []string
		for _, lib := range []string{"x/usr/lib", "../lib"} { // beside the cached kernel, or an installed one
			m, _ := filepath.Glob(filepath.Join(filepath.Dir(oracle.RealUML(t)), lib, "uml/modules/*/kernel/fs/quota", name))
			found = append(found, m...)
		}
		if len(found) == 0 {
			t.Fatalf("the real kernel %s has no %s", oracle.RealUML(t), name)
		}
		oracle.Run(t, "debugfs", "-w", "-R", "write "+found[0]+" "+name, root)
		modules = append(modules, "/"+name)
	}
	work := func(m machine, where string, before ...string) string {
		commands := append(before, "mounted", "/dev/ubdb", "/tmp/m", "projects", "/tmp/m/"+where, "then", "mounted", "/dev/ubdb", "/tmp/m", "values", "/tmp/m/v"+where)
		out := m.run(t, time.Minute, root, []string{"ubd1=" + disk}, commands...)
		oracle.Fsck(t, disk)
		return strings.ReplaceAll(out, "/tmp/m/v"+where, "/tmp/m/v")
	}
	first := work(ours(t, dir), "a")
	real := work(realKernel(t, dir), "b", append(modules, "then", "mounted", "/dev/ubdb", "/tmp/m", "remove", "/tmp/m/a/p1/3", "then")...)
	sameLines(t, first, real, "linux", "real kernel")
	sameLines(t, work(ours(t, dir), "c", "mounted", "/dev/ubdb", "/tmp/m", "remove", "/tmp/m/b/p1/3", "then"), first, "second", "first")
}
