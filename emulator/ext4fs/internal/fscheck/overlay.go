package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// init keeps overlays on the first thread: its mounts are its own, and /proc/self shows
// those of the first thread.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "overlay" {
		runtime.LockOSThread()
	}
}

// overlays mounts overlays whose layers are in dir and changes files through them, as
// containers do.
func overlays(dir string) int {
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	unix.Umask(0o022)
	section(dir, "overlay", overlayCalls)
	section(dir, "overlay options", overlayOptionCalls)

	// One that is still mounted and mapped when the machine ends.
	for _, d := range []string{"/low", "/kept", "/work", "/m"} {
		must(os.MkdirAll(dir+d, 0o755))
	}
	write(dir+"/low/mapped", string(make([]byte, 65536)))
	must(unix.Mount("overlay", dir+"/m", "overlay", 0, fmt.Sprintf("lowerdir=%s/low,upperdir=%s/kept,workdir=%s/work", dir, dir, dir)))
	stored(dir + "/m/mapped")
	return 0
}

// layer describes all that is below a directory: types, modes, owners, content, and
// whether a directory is opaque.
func layer(dir string) string {
	var out []string
	var walk func(rel string)
	walk = func(rel string) {
		entries, err := os.ReadDir(dir + rel)
		if err != nil {
			out = append(out, rel+": "+errName(err))
			return
		}
		for _, e := range entries {
			path := dir + rel + "/" + e.Name()
			st := stat(path)
			line := fmt.Sprintf("%s/%s %o %d:%d", rel, e.Name(), st.Mode, st.Uid, st.Gid)
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				if c := read(path); len(c) > 40 {
					line += fmt.Sprint(" size ", len(c))
				} else {
					line += " " + c
				}
			case unix.S_IFLNK:
				target, _ := os.Readlink(path)
				line += " -> " + target
			case unix.S_IFCHR:
				line += fmt.Sprint(" ", st.Rdev)
			}
			b := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", b); err == nil {
				line += " opaque " + string(b[:n])
			}
			if n, err := unix.Lgetxattr(path, "user.kept", b); err == nil {
				line += " kept " + string(b[:n])
			}
			out = append(out, line)
			if e.IsDir() {
				walk(rel + "/" + e.Name())
			}
		}
	}
	walk("")
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func overlayCalls(d string) {
	for _, dir := range []string{"low1/dir/sub", "low1/gone", "low1/replaced", "low2/dir", "low2/only2", "upper", "work", "m", "low1/emptied"} {
		must(os.MkdirAll(d+"/"+dir, 0o755))
	}
	write(d+"/low1/file", "from 1")
	write(d+"/low2/file", "from 2")
	write(d+"/low2/below", "below")
	write(d+"/low1/dir/a", "a")
	write(d+"/low1/dir/sub/deep", "deep")
	write(d+"/low2/dir/b", "b")
	write(d+"/low1/gone/x", "x")
	write(d+"/low1/emptied/x", "x")
	write(d+"/low1/replaced/old", "old")
	write(d+"/low1/mapped", string(pattern(20000, 3)))
	write(d+"/low1/moved", "moved")
	write(d+"/low1/linked", "linked")
	write(d+"/low1/attr", "attr")
	must(unix.Setxattr(d+"/low1/attr", "user.kept", []byte("yes"), 0))
	must(os.Chown(d+"/low1/attr", 12, 34))
	must(os.Chmod(d+"/low1/attr", 0o640))
	must(os.Symlink("file", d+"/low1/symlink"))
	must(unix.Mkfifo(d+"/low1/fifo", 0o644))
	must(unix.Mknod(d+"/low1/null", unix.S_IFCHR|0o666, 259))
	self, err := os.ReadFile("/proc/self/exe")
	must(err)
	must(os.WriteFile(d+"/low2/prog", self, 0o755))
	// A whiteout and an opaque directory that were there before.
	write(d+"/low2/hidden", "hidden")
	must(unix.Mknod(d+"/low1/hidden", unix.S_IFCHR, 0))
	must(os.MkdirAll(d+"/low2/opaque", 0o755))
	must(os.MkdirAll(d+"/low1/opaque", 0o755))
	write(d+"/low2/opaque/below", "")
	write(d+"/low1/opaque/above", "")
	must(unix.Setxattr(d+"/low1/opaque", "trusted.overlay.opaque", []byte("y"), 0))

	m := d + "/m"
	data := fmt.Sprintf("lowerdir=%s/low1:%s/low2,upperdir=%s/upper,workdir=%s/work", d, d, d, d)
	show("mount", unix.Mount("overlay", m, "overlay", 0, data))
	var fs unix.Statfs_t
	show("type", unix.Statfs(m, &fs), fs.Type, fs.Namelen)
	upper := func(what string) {
		var lines []string
		for _, l := range strings.Split(layer(d+"/upper"), ", ") {
			// A whiteout of what no lower layer has does no harm.
			path, rest, _ := strings.Cut(l, " ")
			var st unix.Stat_t
			if !strings.HasPrefix(rest, "20000 ") || unix.Lstat(d+"/low1"+path, &st) == nil || unix.Lstat(d+"/low2"+path, &st) == nil {
				lines = append(lines, l)
			}
		}
		show("upper after "+what, strings.Join(lines, ", "))
	}
	show("merged", layer(m))
	upper("mount")

	// Copying up.
	fd := open(m+"/file", unix.O_RDWR, 0)
	ro := open(m+"/below", unix.O_RDONLY, 0)
	_, err = unix.Pwrite(fd, []byte("FROM"), 0)
	show("write", err, read(m+"/file"), read(d+"/low1/file"))
	unix.Close(fd)
	upper("write")
	show("append", func() error {
		f, err := os.OpenFile(m+"/below", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(" and more")
		return err
	}(), read(m+"/below"))
	unix.Close(ro)
	show("attributes", os.Chmod(m+"/attr", 0o600), os.Chown(m+"/dir/b", 5, 6), unix.Setxattr(m+"/dir/sub/deep", "user.kept", []byte("new"), 0), unix.Lchown(m+"/symlink", 7, 8))
	show("trusted", unix.Setxattr(m+"/file", "trusted.other", []byte("y"), 0))
	upper("attributes")
	show("truncate", unix.Truncate(m+"/mapped", 5000), stat(m+"/mapped").Size, stat(d+"/low1/mapped").Size)

	// A mapping that can be stored to.
	fd = open(m+"/linked", unix.O_RDWR, 0)
	must(unix.Ftruncate(fd, 8192))
	w, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	copy(w[5000:], "stored")
	show("msync", unix.Msync(w, unix.MS_SYNC), bytes.Contains([]byte(read(m+"/linked")), []byte("stored")), strings.Contains(read(d+"/upper/linked"), "stored"))
	must(unix.Munmap(w))
	show("fallocate", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096), unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), stat(m+"/linked").Size)
	show("fsync", unix.Fsync(fd), unix.Syncfs(fd))
	unix.Close(fd)
	show("link", unix.Link(m+"/linked", m+"/linked2"), read(m+"/linked2") == read(m+"/linked"), stat(m+"/linked").Nlink)
	show("link of lower", unix.Link(m+"/moved", m+"/moved2"), read(m+"/moved2"))

	// Removing.
	show("unlink lower", unix.Unlink(m+"/file"), unix.Unlink(m+"/only2"), unix.Rmdir(m+"/only2"))
	show("unlink in dir", unix.Unlink(m+"/dir/a"), names(m+"/dir"))
	show("remove tree", os.RemoveAll(m+"/gone"), names(m))
	show("rmdir full", unix.Rmdir(m+"/emptied"), unix.Unlink(m+"/emptied/x"), unix.Rmdir(m+"/emptied"))
	show("made again", os.Mkdir(m+"/gone", 0o755), names(m+"/gone"), os.Mkdir(m+"/emptied", 0o700), names(m+"/emptied"))
	write(m+"/file", "anew")
	show("file again", read(m+"/file"))
	show("unlink upper", unix.Unlink(m+"/file"), read(m+"/file"))
	upper("removing")

	// Renaming.
	show("rename lower", unix.Rename(m+"/moved", m+"/dir/moved"), read(m+"/dir/moved"), read(m+"/moved"))
	// A kernel may leave this to mv(1), by EXDEV.
	if err := unix.Rename(m+"/replaced", m+"/elsewhere"); err == unix.EXDEV {
		must(os.RemoveAll(m + "/replaced"))
	} else {
		must(err)
		must(os.RemoveAll(m + "/elsewhere"))
	}
	must(os.Mkdir(m+"/fresh", 0o755))
	write(m+"/fresh/f", "f")
	show("rename fresh directory", unix.Rename(m+"/fresh", m+"/fresh2"), names(m+"/fresh2"))
	show("over removed", unix.Rename(m+"/fresh2", m+"/replaced"), names(m+"/replaced"))
	show("exchange", unix.Renameat2(-100, m+"/prog", -100, m+"/below", unix.RENAME_EXCHANGE), read(m+"/prog"), len(read(m+"/below")) > 100000)
	show("exchange back", unix.Renameat2(-100, m+"/prog", -100, m+"/below", unix.RENAME_EXCHANGE), read(m+"/below"))
	show("noreplace", unix.Renameat2(-100, m+"/prog", -100, m+"/below", unix.RENAME_NOREPLACE))
	upper("renaming")

	// Running a program, and replacing it.
	cmd := exec.Command(m+"/prog", "exit", "7")
	cmd.Run()
	show("exec", cmd.ProcessState.ExitCode())
	must(os.WriteFile(m+"/prog2", self, 0o755))
	show("replace program", os.Rename(m+"/prog2", m+"/prog"), exec.Command(m+"/prog", "exit", "0").Run())
	show("special files", unix.Mkfifo(m+"/p", 0o600), unix.Mknod(m+"/zero", unix.S_IFCHR|0o666, 261), os.Symlink("x", m+"/s"), os.Chmod(m+"/null", 0o600))
	for i := range 300 {
		write(fmt.Sprintf("%s/dir/sub/many%d", m, i), "")
	}
	show("many", strings.Count(names(m+"/dir/sub"), "many"))
	show("remove all of it", os.RemoveAll(m+"/dir"), os.RemoveAll(m+"/opaque"))
	show("merged", layer(m))

	show("busy", func() error {
		fd := open(m+"/below", unix.O_RDONLY, 0)
		defer unix.Close(fd)
		return unix.Unmount(m, 0)
	}())
	show("unmount", unix.Unmount(m, 0))
	show("lower as before", read(d+"/low1/file"), read(d+"/low2/below"), len(read(d+"/low1/mapped")), names(d+"/low1/gone"), names(d+"/low1/dir"), stat(d+"/low1/null").Mode)
	show("mount again", unix.Mount("overlay", m, "overlay", 0, data))
	show("merged", layer(m))
	show("unmount", unix.Unmount(m, 0))
	upper("all")
	show("work", names(d+"/work"))
}

func overlayOptionCalls(d string) {
	for _, dir := range []string{"low", "low2", "upper", "work", "m", "with,comma", "with:colon", "upper/in"} {
		must(os.MkdirAll(d+"/"+dir, 0o755))
	}
	write(d+"/low/a", "a")
	write(d+"/low2/b", "b")
	write(d+"/with,comma/c", "c")
	write(d+"/with:colon/d", "d")
	write(d+"/file", "")
	wd, err := os.Getwd()
	must(err)
	must(os.Chdir(d))
	defer os.Chdir(wd)
	try := func(data string) {
		err := unix.Mount("overlay", d+"/m", "overlay", 0, strings.ReplaceAll(data, "@", d+"/"))
		show(data, err)
		if err == nil {
			show("shows", names(d+"/m"), os.WriteFile(d+"/m/new", nil, 0o644))
			for _, line := range strings.Split(read("/proc/self/mounts"), "\n") {
				if words := strings.Fields(line); len(words) > 3 && words[2] == "overlay" && strings.HasSuffix(words[1], "/m") {
					var layers []string // kernels add options of their own
					for _, o := range strings.Split(strings.ReplaceAll(words[3], strings.ReplaceAll(d, " ", `\040`)+"/", "@"), ",") {
						if strings.Contains(o, "dir=") && !strings.Contains(o, "redirect") {
							layers = append(layers, o)
						}
					}
					show("line", words[0], strings.Join(layers, ","))
				}
			}
			must(unix.Unmount(d+"/m", 0))
			os.RemoveAll(d + "/upper/new")
		}
	}
	try("lowerdir=@low:@low2")
	try("lowerdir=@low")
	try("lowerdir=@low,upperdir=@upper")
	try("lowerdir=@low,upperdir=@upper,workdir=@work")
	try("upperdir=@upper,workdir=@work")
	try("lowerdir=low:low2,upperdir=upper,workdir=work")
	try("lowerdir=@low,upperdir=@upper,workdir=@upper/in")
	try("lowerdir=@low,upperdir=@upper/in,workdir=@upper")
	try("lowerdir=@low,upperdir=@upper,workdir=/proc")
	try("lowerdir=@low,upperdir=@missing,workdir=@work")
	try("lowerdir=@missing,upperdir=@upper,workdir=@work")
	try("lowerdir=@low,upperdir=@file,workdir=@work")
	try("lowerdir=@file,upperdir=@upper,workdir=@work")
	try(`lowerdir=@with\:colon:@with\,comma,upperdir=@upper,workdir=@work`)
	try("lowerdir=@low,upperdir=@upper,workdir=@work,index=off,metacopy=off,redirect_dir=off,xino=off,volatile")
	os.RemoveAll(d + "/work/work") // volatile leaves a mark that forbids to mount again
	try("lowerdir=@low,upperdir=@upper,workdir=@work,userxattr")
	try("lowerdir=@low,upperdir=@upper,workdir=@work,unheard")
	try("lowerdir=@low,upperdir=/proc,workdir=/proc")
	must(os.Mkdir(d+"/tmpfs", 0o755))
	must(unix.Mount("tmpfs", d+"/tmpfs", "tmpfs", 0, ""))
	must(os.Mkdir(d+"/tmpfs/upper", 0o755))
	must(os.Mkdir(d+"/tmpfs/work", 0o755))
	try("lowerdir=@low,upperdir=@tmpfs/upper,workdir=@tmpfs/work")
	try("lowerdir=@low,upperdir=@tmpfs/upper,workdir=@work")
	must(unix.Unmount(d+"/tmpfs", 0))
}
