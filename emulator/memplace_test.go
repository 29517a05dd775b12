package emulator_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// tmpfs mounts a tmpfs with options and returns where.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", options, "tmpfs", dir)
	t.Cleanup(func() { oracle.Run(t, "umount", "-l", dir) })
	return dir
}

// memoryMapped tells where a machine's memory lies, from the mappings of its process.
func memoryMapped(t *testing.T, m *guest.Machine) string {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", m.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`(?m) (/\S*) \(deleted\)$`).FindAllSubmatch(maps, -1) {
		// What the platforms have has these names.
		if name := string(found[1]); !strings.HasPrefix(name, "/memfd:systrap-memory") && !strings.HasPrefix(name, "/memfd:umlkit-stub") {
			return name
		}
	}
	t.Fatalf("no file without a name is mapped:\n%s", maps)
	return ""
}

// stop ends a machine that runs for ever.
func stop(t *testing.T, m *guest.Machine) {
	t.Helper()
	m.Signal(unix.SIGTERM)
	if status := m.Wait(limit); status != 1 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
}

// TestMemoryPlaces: of the places that the environment names the first that can hold
// guest code and all of mem= is taken, and the others are named with what they lack.
func TestMemoryPlaces(t *testing.T) {
	oracle.NeedsRoot(t)
	linux, rd := guest.Binary(t, "linux"), initrd(t)
	noexec, small, good := tmpfs(t, "noexec"), tmpfs(t, "size=8M"), tmpfs(t, "size=100M")
	t.Setenv("TMPDIR", noexec)
	t.Setenv("TMP", small)
	t.Setenv("TEMP", good)
	m := guest.Start(t, linux, "mem=64M", "uml_dir="+t.TempDir(), "initrd="+rd, "forever")
	log := strings.ReplaceAll(m.Expect(limit, "waiting"), "\r", "")
	for _, want := range []string{"memory file: not in " + noexec + ": mounted noexec\n", "memory file: not in " + small + ": 8 MiB free, 64 MiB wanted\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if at := memoryMapped(t, m); !strings.HasPrefix(at, good+"/") {
		t.Errorf("the memory lies in %s, want %s", at, good)
	}
	if left, err := os.ReadDir(good); err != nil || len(left) > 0 {
		t.Errorf("the memory has a name: %v, %v", left, err)
	}
	stop(t, m)
}

// TestMemoryNowhere: where no place can hold guest code, as in containers, a memfd does.
func TestMemoryNowhere(t *testing.T) {
	oracle.NeedsRoot(t)
	var files []*os.File
	for _, name := range []string{guest.Binary(t, "linux"), initrd(t)} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	// The program and its initrd may lie below /tmp.
	cmd := exec.Command(oracle.Tool(t, "unshare"), "-m", "sh", "-ec", `mount -t tmpfs -o noexec,size=64M shm /dev/shm
mount -t tmpfs -o noexec tmp /tmp
exec /proc/self/fd/3 "$@"`, "sh", "mem=64M", "uml_dir=/tmp", "initrd=/proc/self/fd/4", "forever")
	cmd.ExtraFiles = files
	for _, name := range []string{"TMPDIR", "TMP", "TEMP"} {
		t.Setenv(name, "")
	}
	m := guest.StartCmd(t, cmd)
	log := strings.ReplaceAll(m.Expect(limit, "waiting"), "\r", "")
	for _, want := range []string{"memory file: not in /dev/shm: mounted noexec\n", "memory file: not in /tmp: mounted noexec\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if at := memoryMapped(t, m); at != "/memfd:memory" {
		t.Errorf("the memory lies in %s", at)
	}
	stop(t, m)
}

// TestMemoryBound: a tmpfs that is bound to a node of the host binds the guest's memory.
func TestMemoryBound(t *testing.T) {
	oracle.NeedsRoot(t)
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Fatalf("where pages lie, only a host's kernel with NUMA tells: %v", err)
	}
	linux, rd := guest.Binary(t, "linux"), initrd(t)
	dir := tmpfs(t, "mpol=bind:0")
	t.Setenv("TMPDIR", "")
	t.Setenv("TMP", "")
	t.Setenv("TEMP", dir)
	m := guest.Start(t, linux, "mem=64M", "uml_dir="+t.TempDir(), "initrd="+rd, "forever")
	m.Expect(limit, "waiting")
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/numa_maps", m.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^[0-9a-f]+ bind:0 file=` + regexp.QuoteMeta(dir) + `/\S+ .*N0=[1-9]`).Match(maps) {
		t.Errorf("the memory is not bound to node 0:\n%s", maps)
	}
	stop(t, m)
}

// TestLittleMemory boots the built-in userland to a shell with mem=16M, and with mem=32M
// and all 16 disks.
func TestLittleMemory(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	oracle.Run(t, guest.Binary(t, "umlimg"), "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	few := []string{"mem=16M"}
	all := []string{"mem=32M"}
	for n := 1; n < 16; n++ {
		name := filepath.Join(dir, fmt.Sprint("spare", n))
		oracle.Run(t, "truncate", "-s", "1M", name)
		all = append(all, fmt.Sprintf("ubd%d=%s", n, name))
	}
	for _, words := range [][]string{few, all} {
		argv := append([]string{guest.Binary(t, "linux"), "uml_dir=" + dir, "ubd0=" + filepath.Join(dir, "cow") + "," + image, "root=/dev/ubda", "rw"}, words...)
		m := guest.Start(t, argv...)
		m.Expect(limit, `[#$] $`)
		m.Quiet()
		if got := m.Sh(limit, "ls /sys/block | wc -l; ls -d /proc/[0-9]* >/dev/null && cat /proc/swaps | wc -l"); strings.TrimSpace(got) != fmt.Sprintf("%d\n1", len(words)) {
			t.Errorf("%s: the shell says %q", words[0], got)
		}
		if log := m.Terminal(); strings.Contains(log, "Out of memory") {
			t.Errorf("%s is too little", words[0])
		}
		m.Type("poweroff\n")
		if status := m.Wait(limit); status != 0 {
			t.Errorf("%s: exit status %d", words[0], status)
		}
	}
}
