package ext4fs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestDefaultOptionsAsOnARealKernel mounts disks whose superblocks have mount options.
func TestDefaultOptionsAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	disks := []struct{ make, tool []string }{
		{nil, []string{"tune2fs", "-o", "discard,acl,user_xattr,nobarrier,journal_data_ordered"}},
		{nil, []string{"tune2fs", "-o", "journal_data"}},
		{nil, []string{"tune2fs", "-o", "nodelalloc,bsdgroups,uid16", "-e", "remount-ro"}},
		{nil, []string{"debugfs", "-w", "-R", "ssv mount_opts commit=7,nodelalloc,stripe=8"}},
		{nil, []string{"tune2fs", "-o", "journal_data_writeback,block_validity", "-e", "panic"}},
		{[]string{"-O", "^has_journal"}, []string{"tune2fs", "-o", "journal_data_ordered,discard"}},
		{nil, []string{"debugfs", "-w", "-R", "ssv mount_opts nonsense,commit=7"}},
	}
	run := func(m machine) string {
		var kernel, commands []string
		var images []string
		for i, d := range disks {
			image := filepath.Join(t.TempDir(), "disk.img")
			oracle.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-t", "ext4"}, d.make...), image, "40M")...)
			oracle.Run(t, d.tool[0], append(append([]string{}, d.tool[1:]...), image)...)
			kernel = append(kernel, "ubd"+strconv.Itoa(i+1)+"="+image)
			commands = append(commands, "then", "defaults", "/dev/ubd"+string(rune('b'+i)), "/tmp/m")
			images = append(images, image)
		}
		out := m.run(t, 3*time.Minute, newImage(t, "60M"), kernel, commands[1:]...)
		for _, image := range images {
			oracle.Fsck(t, image)
		}
		return out
	}
	sameLines(t, run(ours(t, dir)), run(realKernel(t, dir)), "linux", "real kernel")
}

// TestOptionsAsOnARealKernel mounts a disk with every option there is or was, one by one:
// what a real kernel refuses is refused. Left out are those about quotas, and abort, which
// limits.md says are refused.
func TestOptionsAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	all := strings.Fields(`ro rw sync async dirsync atime noatime relatime strictatime diratime nodiratime
		acl noacl user_xattr nouser_xattr grpid bsdgroups nogrpid sysvgroups minixdf bsddf discard nodiscard noload norecovery
		block_validity noblock_validity dioread_nolock dioread_lock nodioread_nolock delalloc nodelalloc warn_on_error nowarn_on_error
		journal_checksum nojournal_checksum journal_async_commit barrier nobarrier barrier=0 barrier=1 barrier=2 auto_da_alloc noauto_da_alloc auto_da_alloc=0
		init_itable noinit_itable init_itable=10 init_itable=0 debug nombcache no_mbcache prefetch_block_bitmaps no_prefetch_block_bitmaps lazytime nolazytime
		nouid32 i_version noi_version noquota bh nobh mblk_io_submit nomblk_io_submit
		oldalloc orlov mand nomand dax dax=always dax=never dax=inode inlinecrypt test_dummy_encryption reservation noreservation check check=none nocheck
		iversion journal=update journal_dev=5 resuid=7 resgid=7 min_batch_time=5 max_batch_time=5 stripe=3 inode_readahead_blks=3
		inode_readahead_blks=0 inode_readahead_blks=64 max_dir_size_kb=99 journal_ioprio=2 journal_ioprio=8 mb_optimize_scan=0 mb_optimize_scan=2 debug_want_extra_isize=32
		debug_want_extra_isize=2 nodebug data=journal data=ordered data=writeback data= data data_err=ignore data_err=abort commit commit=0 commit=7 commit=2147483 commit=21474837 sb=1 sb=0
		errors=continue errors errors= fc_debug_force fc_debug_max_replay=3 emergency_ro removed nocase`)
	run := func(m machine) string {
		image := filepath.Join(t.TempDir(), "disk.img")
		oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", image, "40M")
		return m.run(t, 3*time.Minute, newImage(t, "60M"), []string{"ubd1=" + image}, "options", "/dev/ubdb", "/tmp/m", "ext4", strings.Join(all, ";"))
	}
	sameLines(t, run(ours(t, dir)), run(realKernel(t, dir)), "linux", "real kernel")
}

// TestTypesAsOnARealKernel mounts disks of every generation as every type of the family:
// one that has features the type does not have is refused, and a line says so. The real
// kernel has a driver of its own for ext2: only whether that mounts is compared.
func TestTypesAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	forms := [][]string{
		{"-t", "ext2"}, {"-t", "ext3"}, {"-t", "ext4"}, {"-t", "ext4", "-O", "^has_journal"}, {"-t", "ext3", "-O", "extent"},
		{"-t", "ext2", "-O", "huge_file"}, {"-t", "ext3", "-O", "huge_file"}, {"-t", "ext3", "-O", "meta_bg,^resize_inode"},
	}
	run := func(m machine, types string) string {
		argv := append(append([]string{}, m.argv...), "con=null", "con0=null,fd:1", "ubd0="+newImage(t, "60M"), "root=/dev/ubda", "rw", "init=/fscheck")
		var devices []string
		for i, args := range forms {
			image := filepath.Join(t.TempDir(), "disk.img")
			oracle.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-b", "4096", "-U", "01234567-89ab-cdef-0123-456789abcdef"}, args...), image, "40M")...)
			argv = append(argv, "ubd"+strconv.Itoa(i+1)+"="+image)
			devices = append(devices, "/dev/ubd"+string(rune('b'+i)))
		}
		out, status := guest.Output(t, 2*time.Minute, append(argv, "--", "options", strings.Join(devices, ";"), "/tmp/m", types, "rw;ro")...)
		if status != 0 || !strings.Contains(out, "fscheck: exit 0") {
			t.Fatalf("%s: exit status %d\n%s", m.name, status, out)
		}
		if m.name == "linux" && types == "ext2" && !strings.Contains(out, "EXT4-fs (ubdd): couldn't mount as ext2 due to feature incompatibilities") {
			t.Errorf("no line about the type:\n%s", out)
		}
		var told []string
		for _, l := range strings.Split(strings.ReplaceAll(out, "\r", ""), "\n") {
			switch i := strings.Index(l, "EXT4-fs (ubd"); {
			case strings.HasPrefix(l, "mount "):
				told = append(told, l)
			case types == "ext2":
			case i >= 0 && !strings.Contains(l, "(ubda)"):
				told = append(told, l[i:])
			case strings.HasPrefix(l, "line"):
				told = append(told, l)
			}
		}
		return strings.Join(told, "\n")
	}
	for _, types := range []string{"ext2", "ext3;ext4"} {
		sameLines(t, run(ours(t, dir), types), run(realKernel(t, dir), types), "linux", "real kernel")
	}
}

// damaged makes an image with a directory "bad" that no kernel reads.
func damaged(t *testing.T) string {
	image := filepath.Join(t.TempDir(), "disk.img")
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", image, "40M")
	oracle.Run(t, "debugfs", "-w", "-R", "mkdir bad", image)
	blocks := strings.Fields(oracle.Run(t, "debugfs", "-R", "blocks bad", image))
	block, err := strconv.ParseInt(blocks[len(blocks)-1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xFF, 0xFF}, block*4096+4); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestDamageAsOnARealKernel meets damage under errors=continue and errors=remount-ro.
func TestDamageAsOnARealKernel(t *testing.T) {
	dir := t.TempDir()
	run := func(m machine) string {
		out := m.run(t, 2*time.Minute, newImage(t, "60M"), []string{"ubd1=" + damaged(t)}, "struck", "/dev/ubdb", "/tmp/m")
		return out
	}
	real := strings.Replace(run(realKernel(t, dir)), "Aborting journal on device ubdb-8.\n", "", 1) // of its log
	sameLines(t, run(ours(t, dir)), real, "linux", "real kernel")
}

// TestDamagePanics meets damage under errors=panic: the machine ends as a panic ends it,
// and the disk says that there was an error.
func TestDamagePanics(t *testing.T) {
	image := damaged(t)
	argv := append(ours(t, t.TempDir()).argv, "con=null", "con0=null,fd:1", "ubd0="+newImage(t, "60M"), "ubd1="+image,
		"root=/dev/ubda", "rw", "init=/fscheck", "--", "panics", "/dev/ubdb", "/tmp/m")
	out, status := guest.Output(t, time.Minute, argv...)
	if want := "Kernel panic - not syncing: EXT4-fs (device ubdb): panic forced after error"; status != 134 || !strings.Contains(out, want) {
		t.Errorf("exit status %d, want 134 and %q\n%s", status, want, out)
	}
	if out := oracle.Run(t, "dumpe2fs", "-h", image); !strings.Contains(out, "with errors") {
		t.Errorf("the superblock does not tell:\n%s", out)
	}
}

// storedIn says whether an image, which a machine may be writing to, has what fscheck's
// lose stored, after a replay of the log.
func storedIn(t *testing.T, image string) bool {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy.img")
	oracle.Run(t, "cp", "--sparse=always", image, copied)
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fy", copied).CombinedOutput()
	if err != nil && err.(*exec.ExitError).ExitCode() > 1 {
		t.Logf("e2fsck of a copy: %v\n%s", err, out) // it was copied while it changed
		return false
	}
	to := filepath.Join(t.TempDir(), "stored")
	oracle.Run(t, "debugfs", "-R", "dump /t/stored "+to, copied)
	got, _ := os.ReadFile(to)
	return bytes.Equal(got, bytes.Repeat([]byte("stored"), 65536/6+1)[:65536])
}

// TestCommitInterval kills two machines after stores that nobody synced, as soon as one
// of them has committed its own: that with commit=1, and not that with commit=600.
func TestCommitInterval(t *testing.T) {
	images := map[string]string{"commit=1": newImage(t, "100M"), "commit=600": newImage(t, "100M")}
	machines := make(map[string]*guest.Machine)
	for option, image := range images {
		argv := append(ours(t, t.TempDir()).argv, "con=null", "con0=null,fd:1", "quiet", "ubd0="+image, "root=/dev/ubda", "rw",
			"rootflags="+option, "init=/fscheck", "--", "lose", "/t", "0")
		machines[option] = guest.StartCmd(t, exec.Command(argv[0], argv[1:]...))
	}
	for _, m := range machines {
		m.Expect(time.Minute, "waited")
	}
	for end := time.Now().Add(time.Minute); !storedIn(t, images["commit=1"]); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("commit=1: the store is not on the disk after a minute")
		}
	}
	for _, m := range machines {
		m.Signal(syscall.SIGKILL)
		m.Wait(time.Minute)
	}
	for option, image := range images {
		if got := storedIn(t, image); got != (option == "commit=1") {
			t.Errorf("%s: the store is on the disk: %v", option, got)
		}
	}
}
