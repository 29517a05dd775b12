package hostfs_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestConfined has a guest try every way out of the directory that hostfs= names, with
// the host moving things under its feet.
func TestConfined(t *testing.T) {
	oracle.NeedsRoot(t)
	outside := t.TempDir()
	d := filepath.Join(outside, "export")
	for _, dir := range []string{"d", "gate", "gate2", "mover/below"} {
		check(t, os.MkdirAll(filepath.Join(d, dir), 0o755))
	}
	write(t, outside+"/secret", "SECRET")
	check(t, os.Mkdir(outside+"/beside", 0o755))
	write(t, outside+"/beside/secret", "SECRET")
	write(t, outside+"/beside/inside", "SECRET")
	for link, target := range map[string]string{
		"abs": outside + "/secret", "rel": "../secret", "d/rel": "../../secret", "magic": fmt.Sprintf("/proc/%d/cwd", os.Getpid()),
		"dirabs": outside, "dirrel": "..", "root": "/", "cwd": "/proc/self/root" + outside,
		"gatelink": "../beside", "gate2link": outside + "/beside", "socklink": outside + "/sock",
	} {
		check(t, os.Symlink(target, filepath.Join(d, link)))
	}
	for _, gate := range []string{"gate", "gate2"} {
		write(t, filepath.Join(d, gate, "inside"), "inside")
	}
	heard := make(chan struct{}, 10)
	// Names of sockets are short.
	sockets, err := os.MkdirTemp("", "s")
	check(t, err)
	defer os.RemoveAll(sockets)
	for _, at := range []string{sockets + "/a", "@umlkit-hostfs-test"} {
		l, err := net.Listen("unix", at)
		check(t, err)
		defer l.Close()
		go func() {
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
				heard <- struct{}{}
			}
		}()
	}
	check(t, os.Link(sockets+"/a", d+"/sock"))
	check(t, os.Link(sockets+"/a", outside+"/sock"))
	check(t, unix.Mkfifo(d+"/fifo", 0o666))
	fifo, err := os.OpenFile(d+"/fifo", os.O_RDWR, 0)
	check(t, err)
	defer fifo.Close()
	_, err = fifo.WriteString("SECRET")
	check(t, err)
	check(t, unix.Mknod(d+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	var st unix.Stat_t
	check(t, unix.Stat(outside, &st))
	check(t, unix.Mknod(d+"/hostdisk", unix.S_IFBLK|0o666, int(unix.Mkdev(unix.Major(st.Dev), unix.Minor(st.Dev)))))

	argv := linux(t, newRoot(t, hostcheck), "hostfs="+d)
	out := background(t, argv, []string{"mount", "none", "/m", "", "then", "attack", "/m", outside}, func() {
		await(t, d+"/race?")
		var stop atomic.Bool
		swapped := make(chan struct{})
		go func() {
			for !stop.Load() {
				_ = unix.Renameat2(unix.AT_FDCWD, d+"/gate", unix.AT_FDCWD, d+"/gatelink", unix.RENAME_EXCHANGE)
				time.Sleep(50 * time.Microsecond)
			}
			close(swapped)
		}()
		write(t, d+"/racing", "")
		await(t, d+"/raced?")
		stop.Store(true)
		<-swapped
		write(t, d+"/raced", "")
		await(t, d+"/move?")
		check(t, os.Rename(d+"/mover", outside+"/mover"))
		write(t, d+"/moved", "")
	})
	wantLines(t, out, "attack: true 0", "race: true", "host's socket: ECONNREFUSED", "host's fifo: ok 0 ok",
		"guest's device: 10 ok", "host's disk: ENXIO", "host's abstract socket: ECONNREFUSED", "through a link: ENOENT")
	select {
	case <-heard:
		t.Error("the guest came through to a socket of the host")
	default:
	}
	for name, want := range map[string]string{"": "beside export mover secret sock", "beside": "inside secret"} {
		if got := list(t, filepath.Join(outside, name)); got != want {
			t.Errorf("outside in %q there are %q, want %q", name, got, want)
		}
	}
	if b, _ := os.ReadFile(outside + "/beside/inside"); string(b) != "SECRET" {
		t.Errorf("a file outside holds %q", b)
	}
}

func list(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestFresh holds that the guest sees what changes on the host.
func TestFresh(t *testing.T) {
	d := t.TempDir()
	check(t, os.Mkdir(d+"/dir", 0o755))
	check(t, os.Mkdir(d+"/other", 0o755))
	write(t, d+"/file", "old")
	write(t, d+"/gone", "x")
	write(t, d+"/dir/a", "")
	argv := linux(t, newRoot(t, hostcheck), "hostfs="+d)
	out := background(t, argv, []string{"mount", "none", "/m", "", "then", "fresh", "/m"}, func() {
		await(t, d+"/changed?")
		write(t, d+"/file", "changed by the host")
		check(t, os.Chmod(d+"/file", 0o600))
		check(t, os.Chtimes(d+"/file", time.Unix(1000, 0), time.Unix(1000, 0)))
		write(t, d+"/dir/b", "")
		check(t, os.Remove(d+"/dir/a"))
		write(t, d+"/changed", "")
		await(t, d+"/replaced?")
		write(t, d+"/new", "another file")
		check(t, os.Rename(d+"/new", d+"/file"))
		check(t, os.Remove(d+"/other"))
		check(t, os.Rename(d+"/dir", d+"/other"))
		check(t, os.Rename(d+"/gone", d+"/moved"))
		write(t, d+"/replaced", "")
		await(t, d+"/point?")
		check(t, os.Remove(d+"/point"))
		write(t, d+"/pointless", "")
	})
	wantLines(t, out, `before: "old" "a"`, `changed: "changed by the host" 19 "-rw-------" 1000`, `directory: "b"`, `replaced: "another file"`,
		`old one: "changed by the host" EOF`, `became a directory: "b"`, `gone: "ENOENT" "x"`, `mount point: "ENOENT" true`)
}

// TestMapped holds that the guest's mappings are the host's file.
func TestMapped(t *testing.T) {
	d := t.TempDir()
	page := strings.Repeat("host", 1024)
	write(t, d+"/map", page+page+page+page)
	argv := linux(t, newRoot(t, hostcheck), "hostfs="+d)
	out := background(t, argv, []string{"mount", "none", "/m", "/", "then", "maps", "/m"}, func() {
		await(t, d+"/stored?")
		f, err := os.OpenFile(d+"/map", os.O_RDWR, 0)
		check(t, err)
		defer f.Close()
		b := make([]byte, 5)
		_, err = f.ReadAt(b, 0)
		check(t, err)
		if string(b) != "guest" {
			t.Errorf("the host reads %q, the guest stored %q", b, "guest")
		}
		_, err = f.WriteAt([]byte("HOST"), 4096)
		check(t, err)
		write(t, d+"/stored", "")
		await(t, d+"/short?")
		check(t, f.Truncate(4096))
		write(t, d+"/short", "")
	})
	wantLines(t, out, `mapped: "hosth" "hosth" "hosth"`, `stored: "guest" "guest"`, `host's: "HOST" "HOST"`, "shortened: true true false", "write from behind the end: EFAULT")
}

// TestExhausted has a guest open files until the machine has no more descriptors for it.
// The machine itself has enough.
func TestExhausted(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/file", "text")
	argv := append([]string{oracle.Tool(t, "prlimit"), "--nofile=400:400"}, linux(t, newRoot(t, hostcheck), "hostfs="+d)...)
	out := output(t, argv, "mount", "none", "/m", "/", "then", "exhaust", "/m")
	wantLines(t, out, "exhausted: ENFILE true", `look on: "ENFILE"`, `again: "text" true`, "by path: true")
}

// TestNamespace holds that what root of a user namespace may mount is not the host's.
func TestNamespace(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk")
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", image, "8M")
	out := output(t, linux(t, newRoot(t, hostcheck), "ubd1="+image), "namespace", "/m")
	wantLines(t, out, "hostfs: EPERM", "ext4: EPERM", "tmpfs: ok", "in a namespace: ok")
}

// TestRestart holds that a machine that boots again has let go of the files of the boot
// before.
func TestRestart(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/map", strings.Repeat("x", 4096))
	write(t, d+"/boots", "")
	m := guest.Start(t, append(linux(t, newRoot(t, hostcheck), "hostfs="+d), "--", "mount", "none", "/m", "/", "then", "restart", "/m")...)
	var counts []int
	for range 5 {
		await(t, d+"/booted?")
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.PID()))
		check(t, err)
		counts = append(counts, len(entries))
		write(t, d+"/go", "")
	}
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
	// A boot has some more or less, as it comes to it.
	if counts[4] > counts[1]+8 {
		t.Errorf("descriptors of the machine at each boot: %v", counts)
	}
	t.Log(counts)
}

// TestReadOnly holds that a mount that is read-only changes nothing, and remounts.
func TestReadOnly(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/file", "text")
	check(t, os.Mkdir(d+"/sub", 0o755))
	write(t, d+"/sub/in", "below")
	argv := linux(t, newRoot(t, hostcheck), "hostfs="+d)
	all := output(t, argv, "mount", "none", "/m", "/", "ro", "then", "readonly", "/m", "then", "remount", "/m", "/", "then", "remount", "/m", "/other",
		"then", "remount", "/m", "uid=5", "then", "grow", "/m", "then", "newmount", "/m2", "/sub", "7", "then", "cat", "/m2/in", "then", "cat", "/proc/filesystems")
	wantLines(t, all, `open: EROFS "text"`, "create: EROFS EROFS EROFS", "change: EROFS EROFS EROFS", "names: EROFS EROFS EROFS", "attributes: EROFS EROFS",
		"remount /: ok", "remount /other: EINVAL", "remount uid=5: EINVAL", "unlink: ok",
		"newmount: ok", `cat /m2/in: "below" ok`)
	write(t, d+"/file", "text")
	out := output(t, argv, "mount", "none", "/m", "/,ro", "then", "readonly", "/m", "then", "remount", "/m", "/", "then", "grow", "/m")
	wantLines(t, out, `open: EROFS "text"`, "create: EROFS EROFS EROFS", "change: EROFS EROFS EROFS", "names: EROFS EROFS EROFS", "attributes: EROFS EROFS", "unlink: ok")
	write(t, d+"/file", "text")
	out = output(t, argv, "mount", "none", "/m", "/", "then", "emergency", "/m")
	wantLines(t, out, "before: ok", "after: EROFS EROFS EROFS")
	if !strings.Contains(all, `nodev\thostfs\n`) {
		t.Errorf("no hostfs in /proc/filesystems:\n%s", all)
	}
}

// TestAppend holds hostfs=DIR,append against a real kernel's, and then what that leaves
// open.
func TestAppend(t *testing.T) {
	run := func(argv []string, more ...string) (string, string) {
		d := t.TempDir()
		write(t, d+"/file", "text")
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], "@", d)
		}
		out := output(t, argv, append([]string{"mount", "none", "/m", "/", "then", "grow", "/m"}, more...)...)
		if b, _ := os.ReadFile(d + "/file"); strings.TrimRight(string(b), "\x00") != "textXY" {
			t.Errorf("the file grew to %q", b)
		}
		// What it has written a real kernel shows only once it has read it back.
		i := strings.Index(out, "truncating open")
		j := strings.Index(out, "rename: ")
		if i < 0 || j < 0 {
			t.Fatalf("output:\n%s", out)
		}
		return out, out[i:j]
	}
	image := filepath.Join(t.TempDir(), "disk")
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", newRoot(t, hostcheck), image, "32M")
	_, want := run([]string{oracle.RealUML(t), "mem=128M", "uml_dir=" + t.TempDir() + "/", "con=null", "con0=null,fd:1", "quiet", "ubd0=" + image, "root=/dev/ubda", "rw", "init=/init", "hostfs=@,append"})
	all, got := run(linux(t, newRoot(t, hostcheck), "hostfs=@,append"), "then", "growmore", "/m")
	if got != want {
		t.Errorf("linux:\n%s\nreal kernel:\n%s", got, want)
	}
	wantLines(t, all, `write at the beginning: ok "textX"`, `write: ok "textXY"`, "rename: ok", `rename over: EPERM "textXY"`, "shared mapping: EACCES", "mapping to read: ok EACCES", "punch: EPERM", "zero: EPERM", "allocate: ok")
}

// TestOwners has a machine of an ordinary user remember owners, modes and devices, from
// boot to boot.
func TestOwners(t *testing.T) {
	d := shared(t)
	tree := filepath.Join(d, "tree")
	check(t, os.Mkdir(tree, 0o755))
	root := newRoot(t, hostcheck)
	if os.Geteuid() == 0 {
		oracle.Run(t, "chown", "-R", fmt.Sprintf("%d:%d", ordinary, ordinary), d, root)
	}
	boot := func(options string, commands ...string) string {
		return output(t, asOrdinary(t, linux(t, root, "hostfs="+tree)...), append([]string{"mount", "none", "/m", options, "then"}, commands...)...)
	}
	out := boot("remember", "own", "/m")
	first := "given: \"5:6 100640\"\nsuid: \"0:0 104755\"\nnull: \"0:0 20666 1:3\"\ndisk: \"0:0 60660 98:16\"\nfifo: \"5:6 10644\"\nsocket: \"0:0 140600\"\n" +
		"link: \"5:6 120777\"\nmylink: \"0:0 120777\"\ntheirs: \"1000:1000 40755\"\ntheirs/file: \"1000:1000 100644\"\nsgid: \"0:7 42775\"\nsgid/file: \"0:7 100644\"\n" +
		"locked: \"0:0 100000\"\nhard: \"5:6 100640\"\ntargets: \"given\" \"given\" \"given\"\n" +
		"kinds: \"disk=D--------- fifo=p--------- given=---------- hard=---------- link=L--------- locked=---------- mylink=L--------- null=Dc--------- sgid=d--------- socket=S--------- suid=---------- theirs=d--------- \"\n"
	wantLines(t, out, "chown: ok", "chmod: ok", "mknod: ok", "mkfifo: ok", "chown fifo: ok", "lchown: ok", "chown directory: ok", `read by root: "locked"`,
		`user reads: "EACCES" "EACCES"`, "user writes: EACCES ok", `user's link: ok "1000:1000 120777" ok`, "user chowns: EPERM EPERM", "user's mknod: EPERM", "user: ok",
		"null: 4 ok", "own attribute: EPERM", "hidden: ENODATA")
	if !strings.Contains(out, first) {
		t.Errorf("owners are not\n%s", first)
	}
	if again := boot("/,remember", "owned", "/m"); !strings.Contains(again, first) {
		t.Errorf("the next boot sees\n%s", again)
	}
	// What lies on the host is harmless there.
	check(t, filepath.Walk(tree, func(path string, info os.FileInfo, err error) error {
		if err == nil && (info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeDevice|os.ModeSocket|os.ModeNamedPipe) != 0) && info.Name() != "socket" {
			t.Errorf("%s has mode %v on the host", path, info.Mode())
		}
		return err
	}))
	out = boot("", "own", "/m/second")
	wantLines(t, out, "chown: EPERM", "mknod: EPERM")
	id := ordinary
	if os.Geteuid() != 0 {
		id = os.Geteuid()
	}
	if !strings.Contains(out, fmt.Sprintf("given: \"%d:", id)) {
		t.Errorf("without options a file is not its owner's:\n%s", out)
	}
	out = boot("uid=3,gid=0", "owned", "/m/second")
	wantLines(t, out, `given: "3:0 100640"`, `sgid: "3:0 42775"`)
}

// TestCallsAsOnExt4 holds several hundred small experiments with files against the same on
// the machine's own ext4, which are held against a real kernel's elsewhere.
func TestCallsAsOnExt4(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk")
	tree := newRoot(t, fscheck)
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", "root_owner=0:0", "-d", tree, image, "600M")
	var want string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		want = output(t, linux(t, image, "root=/dev/ubda"), "calls", "/t")
	}()
	if os.Geteuid() == 0 {
		oracle.Run(t, "chown", "-R", fmt.Sprintf("%d:%d", ordinary, ordinary), tree)
	}
	got := output(t, asOrdinary(t, linux(t, tree, "rootflags=remember")...), "calls", "/t")
	<-ended
	sameBut(t, got, want, []string{"# acls", "# flags"}, []string{
		"statx attributes: ", "trusted: ", "security: ", "list: ", "on symlink: ", "on fifo: ", "get trusted.", "capability: ", "get security.", "malformed capability: ",
		"statfs: ", "fstatfs: ", "blocks taken: ", "space: ", "acl: ", "acl of root's: ", "set of root's: ", "immutable: ", "nodump: ", "label: ", "xattr: ",
		// A file's capabilities are an attribute of the kernel's.
		"CapPrm:", "CapEff:",
		// The host decides what O_DIRECT wants.
		"unaligned ",
	})
}

// sameBut compares outputs line by line, but for sections and for lines that begin so.
func sameBut(t *testing.T, got, want string, sections, lines []string) {
	t.Helper()
	keep := func(out string) []string {
		var kept []string
		skip := false
		for _, l := range strings.Split(out, "\n") {
			if strings.HasPrefix(l, "# ") {
				skip = false
				for _, s := range sections {
					skip = skip || l == s
				}
			}
			for _, begin := range lines {
				if strings.HasPrefix(l, begin) {
					l = begin
				}
			}
			if !skip && !strings.HasPrefix(l, "EXT4-fs") && !strings.HasPrefix(l, "hostfs:") {
				kept = append(kept, l)
			}
		}
		return kept
	}
	g, w := keep(got), keep(want)
	if len(w) < 400 {
		t.Fatalf("only %d lines to compare:\n%s", len(w), want)
	}
	for i := range max(len(g), len(w)) {
		a, b := "", ""
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("line %d\nhostfs: %s\n  ext4: %s", i+1, a, b)
		}
		if t.Failed() && i > 1000 {
			break
		}
	}
}

// TestPosix runs go-fuse's tests of what POSIX demands of a filesystem on a hostfs.
func TestPosix(t *testing.T) {
	root := newRoot(t, fscheck)
	oracle.Run(t, "cp", program(t, posix), root+"/posix")
	out := output(t, linux(t, root), "exec", "/t", "/posix", "-test.v", "-test.skip=^FcntlFlockLocksFile$")
	passed, skipped := strings.Count(out, "--- PASS: "), strings.Count(out, "--- SKIP: ")
	if passed < 30 || skipped > 1 || strings.Contains(out, "--- FAIL") {
		t.Errorf("%d tests passed, %d were left out:\n%s", passed, skipped, out)
	}
}

// TestRandomOperations runs random operations on a file against a model, and random
// operations on a tree by several processes.
func TestRandomOperations(t *testing.T) {
	seed := fmt.Sprint(oracle.Seed(t))
	operations := "1500"
	if oracle.Nightly() {
		operations = "50000"
	}
	out := output(t, linux(t, newRoot(t, fscheck)), "fsx", "/t", seed, operations, "then", "fsx", "/t", seed+"1", operations, "then", "stress", "/t", seed, "400", "4")
	if !strings.Contains(out, "fscheck: exit 0\n") {
		t.Errorf("output:\n%s", out)
	}
}

// TestNoExec boots from a host mount that does not let its files be executed: they are
// copied, as a real kernel's hostfs does with all files.
func TestNoExec(t *testing.T) {
	oracle.NeedsRoot(t)
	mnt := t.TempDir()
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "noexec,mode=755", "tmpfs", mnt)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	oracle.Run(t, "cp", "-a", newRoot(t, hostcheck)+"/.", mnt)
	out := output(t, linux(t, mnt), "cat", "/proc/self/mounts")
	wantLines(t, out)
	if !strings.Contains(out, "/dev/ubda / hostfs rw,relatime,/ 0 0") {
		t.Errorf("output:\n%s", out)
	}
}

// TestNamesOfRoot boots a directory by each of the ways that name it.
func TestNamesOfRoot(t *testing.T) {
	dir := newRoot(t, hostcheck)
	base := []string{guest.Binary(t, "linux"), "mem=64M", "con=null", "con0=null,fd:1", "init=/init"}
	for name, words := range map[string][]string{
		"HOWTO":            {"ubd0=" + dir},
		"another disk":     {"ubd1=" + dir, "root=/dev/ubdb", "rootflags=uid=0"},
		"by number":        {"ubd0=" + dir, "root=98:0", "rw"},
		"/dev/ubd/0":       {"ubd0=" + dir, "root=/dev/ubd/0"},
		"the whole tree":   {"root=none", "hostfs=/", "rootfstype=hostfs", "rootflags=" + dir},
		"without hostfs=":  {"rootfstype=hostfs", "rootflags=" + dir},
		"confined":         {"hostfs=" + filepath.Dir(dir), "rootfstype=hostfs", "rootflags=/" + filepath.Base(dir)},
		"confined to that": {"hostfs=" + dir, "rootfstype=hostfs"},
	} {
		t.Run(name, func(t *testing.T) {
			out := output(t, append(append(append([]string{}, base...), "uml_dir="+t.TempDir()), words...), "cat", "/proc/mounts")
			wantLines(t, out)
			if !strings.Contains(out, "VFS: Mounted root (hostfs filesystem)") {
				t.Errorf("output:\n%s", out)
			}
			warned := strings.Count(out, "hostfs: this machine runs as root")
			confined := strings.Contains(strings.Join(words, " "), "hostfs=/")
			if os.Geteuid() == 0 && (warned == 1) == confined || warned > 1 {
				t.Errorf("%d lines say that the guest may mount the whole host:\n%s", warned, out)
			}
		})
	}
	t.Run("nothing there", func(t *testing.T) {
		out, status := guest.Output(t, limit, append(base, "uml_dir="+t.TempDir(), "hostfs="+dir, "rootfstype=hostfs", "rootflags=/not/there")...)
		if status != 134 || !strings.Contains(out, "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)") {
			t.Errorf("exit status %d:\n%s", status, out)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		out, status := guest.Output(t, limit, append(base, "uml_dir="+t.TempDir(), "hostfs="+dir+"/none", "rootfstype=hostfs")...)
		if status != 134 || !strings.Contains(out, "hostfs="+dir+"/none: open "+dir+"/none: no such file or directory; no hostfs can be mounted") {
			t.Errorf("exit status %d:\n%s", status, out)
		}
	})
}
