package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// must runs umlimg in this process and wants success without a word.
func must(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := call(args...)
	if status != 0 || stderr != "" {
		t.Fatalf("umlimg %q: status %d\n%s", args, status, stderr)
	}
	return stdout
}

// smallImage is an image with a few files.
func smallImage(t *testing.T, dir string, options ...string) string {
	t.Helper()
	tree, _ := sources(t)
	image := filepath.Join(dir, "disk.img")
	must(t, append(append([]string{"create", "--from", tree, "--as-is", "--size", "32M"}, options...), image)...)
	return image
}

// manyFiles is a tree to be copied.
func manyFiles(t *testing.T, n int) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "many")
	for i := range n {
		dir := filepath.Join(tree, fmt.Sprint(i%17))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := []byte(strings.Repeat(fmt.Sprint(i, " "), 1+i*37%5000))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// dirtyImage is an image whose journal holds a change that is nowhere else.
func dirtyImage(t *testing.T, dir string) string {
	t.Helper()
	image := smallImage(t, dir)
	dev, err := ubdfmt.OpenRaw(image, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := fs.Root()
	if err != nil {
		t.Fatal(err)
	}
	n, err := root.Create("replayed", ext4.NewInode{Mode: format.ModeRegular | 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.WriteAt([]byte("from the journal\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() error{n.Put, root.Put, fs.Close} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	dirty := filepath.Join(dir, "dirty.img")
	if err := os.WriteFile(dirty, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := oracle.Run(t, "dumpe2fs", "-h", dirty); !strings.Contains(out, "needs_recovery") {
		t.Fatalf("the journal is empty:\n%s", out)
	}
	return dirty
}

// Commands that read change nothing, and show what a journal's replay would give.
func TestReadingChangesNothing(t *testing.T) {
	dir := t.TempDir()
	dirty := dirtyImage(t, dir)
	cow := filepath.Join(dir, "disk.cow")
	if err := ubdfmt.CreateCOW(cow, dirty, ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		var b strings.Builder
		for _, name := range []string{dirty, cow} {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %x %v %d\n", name, text, st.Mtim, st.Blocks)
		}
		return b.String()
	}
	before := state()
	for _, image := range []string{dirty, cow} {
		for _, args := range [][]string{
			{"ls", "-lR", image + ":/"}, {"ls", "--json", image + ":/"}, {"cat", image + ":/replayed"}, {"stat", image + ":/replayed"},
			{"df", image}, {"find", image + ":/"}, {"tar-out", image + ":/", filepath.Join(dir, "out.tar")},
			{"cp", "-r", image + ":/", filepath.Join(dir, "out-"+filepath.Base(image))}, {"cp", image + ":/replayed", "-"},
		} {
			out := must(t, args...)
			switch args[0] {
			case "ls", "find", "stat":
				if !strings.Contains(out, "replayed") {
					t.Errorf("%q does not show what is in the journal:\n%s", args, out)
				}
			case "cat":
				if out != "from the journal\n" {
					t.Errorf("%q: %q", args, out)
				}
			}
			if state() != before {
				t.Fatalf("%q changes the image", args)
			}
		}
		t.Setenv("VISUAL", "true")
		must(t, "edit", image+":/replayed")
		if state() != before {
			t.Fatal("edit without a change changes the image")
		}
	}
	// Where it may only be read, too.
	if os.Geteuid() != 0 {
		if err := os.Chmod(dirty, 0o444); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := call("rm", dirty+":/replayed"); status != 1 || !strings.Contains(stderr, "permission denied") {
			t.Errorf("rm in an image that may only be read: %d, %s", status, stderr)
		}
	}
	// A write goes on from the replayed state, in the COW alone.
	must(t, "rm", cow+":/replayed")
	if text, err := os.ReadFile(dirty); err != nil || !strings.Contains(before, fmt.Sprintf("%s %x ", dirty, text)) {
		t.Errorf("writing to a COW changes its backing file, %v", err)
	}
	if out := must(t, "ls", cow+":/"); strings.Contains(out, "replayed") {
		t.Errorf("the file is still there:\n%s", out)
	}
	must(t, "rm", dirty+":/replayed")
	oracle.Fsck(t, dirty)
}

// A mistake on the command line has a status of its own, and each failure one line.
func TestFilesExitStatus(t *testing.T) {
	dir := t.TempDir()
	image := smallImage(t, dir)
	tree, _ := sources(t)
	for _, c := range []struct {
		want int
		args []string
	}{
		{2, []string{"ls"}}, {2, []string{"ls", "none:etc"}}, {2, []string{"ls", "--nope", image + ":/"}}, {2, []string{"ls", image + ":/", "-l"}},
		{1, []string{"ls", image + ":/none"}}, {1, []string{"ls", filepath.Join(dir, "none") + ":/"}}, {1, []string{"ls", dir + ":/"}},
		{2, []string{"cat", image}}, {1, []string{"cat", image + ":/etc"}}, {2, []string{"cp", tree}}, {2, []string{"cp", tree, dir}},
		{2, []string{"cp", "--owner", "0", image + ":/etc/passwd", dir}}, {1, []string{"cp", tree, image + ":/"}}, {1, []string{"cp", "-r", tree, image + ":/etc/passwd"}},
		{2, []string{"cp", "-T", image + ":/etc/passwd", image + ":/etc/shadow", image + ":/etc"}},
		{2, []string{"put", "-"}}, {2, []string{"put", "-", dir}}, {2, []string{"put", "--mode", "x", "-", image + ":/x"}}, {1, []string{"put", dir, image + ":/x"}},
		{2, []string{"rm"}}, {1, []string{"rm", image + ":/etc"}}, {1, []string{"rm", image + ":/"}}, {2, []string{"mkdir", dir}}, {1, []string{"mkdir", image + ":/etc"}},
		{2, []string{"ln", "x"}}, {1, []string{"ln", "-s", "x", image + ":/etc"}}, {2, []string{"chmod", "u+q", image + ":/etc"}}, {2, []string{"chmod", "644"}},
		{1, []string{"chown", "nobody", image + ":/etc"}}, {2, []string{"chown", "1", dir}}, {1, []string{"stat", image + ":/none"}}, {2, []string{"stat"}},
		{1, []string{"df", dir}}, {2, []string{"df"}}, {2, []string{"find", image, "-type", "x"}}, {2, []string{"find", image, "-maxdepth", "-1"}}, {1, []string{"find", image + ":/none"}},
		{2, []string{"tar-out", "--compress", "x", image}}, {1, []string{"tar-out", image, filepath.Join(dir, "none", "x")}}, {2, []string{"tar-in"}},
		{1, []string{"tar-in", "-", image + ":/"}}, {1, []string{"tar-in", image, image + ":/"}}, {2, []string{"edit"}}, {1, []string{"edit", image + ":/etc"}},
		{0, []string{"ls", "-h"}}, {0, []string{"cp", "--help"}}, {0, []string{"-h"}},
	} {
		if got, _, stderr := call(c.args...); got != c.want || (got != 0) != (stderr != "") || strings.Count(stderr, "\n") > 1 {
			t.Errorf("%q: status %d, want %d\n%s", c.args, got, c.want, stderr)
		}
	}
	oracle.Fsck(t, image)
}

// A partition is named by its number, a COW by its own name.
func TestPlacesInDisks(t *testing.T) {
	dir := t.TempDir()
	disk, one := filepath.Join(dir, "disk"), smallImage(t, dir)
	cmd := exec.Command(oracle.Tool(t, "sfdisk"), "-q", disk)
	cmd.Stdin = strings.NewReader("label: gpt\nsize=32M\nsize=32M\n")
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 80<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i := range 2 {
		oracle.Run(t, "dd", "if="+one, "of="+disk, "bs=1M", fmt.Sprint("seek=", 1+32*i), "conv=notrunc", "status=none")
	}
	must(t, "mkdir", disk+"#2:/second")
	must(t, "cp", "-r", disk+"#2:/home", disk+"#1:/copied")
	if got := must(t, "ls", disk+"#1:/"); got != "copied\netc\nhome\nlib\nlost+found\nusr\n" {
		t.Errorf("partition 1: %q", got)
	}
	if got := must(t, "ls", disk+"#2"); got != "etc\nhome\nlib\nlost+found\nsecond\nusr\n" {
		t.Errorf("partition 2: %q", got)
	}
	if got := must(t, "df", disk+"#1", disk+"#2"); strings.Count(got, "\n") != 3 {
		t.Errorf("df: %q", got)
	}
	for i := range 2 {
		part := filepath.Join(dir, "part")
		oracle.Run(t, "dd", "if="+disk, "of="+part, "bs=1M", fmt.Sprint("skip=", 1+32*i), "count=32", "status=none")
		oracle.Fsck(t, part)
	}
	if status, _, stderr := call("ls", disk+":/"); status != 1 || !strings.Contains(stderr, "name a partition, as "+disk+"#1:/") {
		t.Errorf("the whole disk: status %d, %q", status, stderr)
	}
	if status, _, stderr := call("ls", disk+"#9:/"); status != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("no such partition: status %d, %q", status, stderr)
	}
	// A qcow2 image is only read.
	qcow := filepath.Join(dir, "disk.qcow2")
	oracle.Run(t, "qemu-img", "convert", "-O", "qcow2", disk, qcow)
	if got := must(t, "cat", qcow+"#1:/copied/joe/file"); got != "x" {
		t.Errorf("a qcow2 image: %q", got)
	}
	if status, _, stderr := call("rm", qcow+"#1:/copied/joe/file"); status != 1 || !strings.Contains(stderr, "can only be read") {
		t.Errorf("a qcow2 image to be written: status %d, %q", status, stderr)
	}
	// Changes go to the COW alone.
	cow := filepath.Join(dir, "disk.cow")
	if err := ubdfmt.CreateCOW(cow, disk, ubdfmt.Options{}); err != nil {
		t.Fatal(err)
	}
	must(t, "rm", "-r", cow+"#2:/second")
	if got := must(t, "ls", disk+"#2:/second"); got != "" {
		t.Errorf("the backing file: %q", got)
	}
	if status, _, _ := call("ls", cow+"#2:/second"); status != 1 {
		t.Error("the COW still has it")
	}
}

func TestParsePlace(t *testing.T) {
	for text, want := range map[string]place{
		"disk.img:/etc":            {disk: "disk.img", path: "/etc"},
		"./d/disk.img:/":           {disk: "./d/disk.img", path: "/"},
		"/a/b#2:/x:/y":             {disk: "/a/b", part: 2, path: "/x:/y"},
		"a#0:/x":                   {disk: "a#0", path: "/x"},
		"a#-1:/x":                  {disk: "a#-1", path: "/x"},
		"#1:/x":                    {disk: "#1", path: "/x"},
		"a#99999999999999999999:/": {disk: "a#99999999999999999999", path: "/"},
		"host":                     {path: "host"},
		":/x":                      {path: ":/x"},
		"a:b":                      {path: "a:b"},
	} {
		want.text = text
		if got := parsePlace(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	// A file of the whole name is no partition.
	t.Chdir(t.TempDir())
	if err := os.WriteFile("odd#2", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if p := placeOf("odd#2:/x"); p.disk != "odd#2" || p.part != 0 {
		t.Errorf("a file with a # in its name: %+v", p)
	}
	// A directory of this machine whose name ends in a colon, where no such disk is.
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("odd:", 0o755); err != nil {
		t.Fatal(err)
	}
	if p := placeOf("odd:/x"); p.inImage() || p.path != "odd:/x" {
		t.Errorf("a directory: %+v", p)
	}
	if err := os.WriteFile("odd", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if p := placeOf("odd:/x"); !p.inImage() {
		t.Errorf("a disk beside it: %+v", p)
	}
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"disk.img:/etc", "a#2:/x", "#:/", ":/", "a#0:/:/", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := parsePlace(text)
		switch {
		case p.text != text || p.part < 0:
			t.Errorf("%q: %+v", text, p)
		case !p.inImage() && p.path != text:
			t.Errorf("%q: %+v", text, p)
		case p.inImage() && (p.path[0] != '/' || !strings.HasSuffix(text, ":"+p.path)):
			t.Errorf("%q: %+v", text, p)
		case p.inImage() && p.part > 0 && parsePlace(p.image()+":"+p.path).part != p.part:
			t.Errorf("%q: %+v", text, p)
		}
	})
}

// A kernel that mounts the image sees what was copied in, and what it writes comes out.
func TestFilesAsTheKernelSeesThem(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	tree := manyFiles(t, 60)
	oracle.Run(t, "sh", "-c", `cd "$0" && ln 0/0 hard && ln -s 0/0 link && mkfifo pipe && mknod dev c 5 300 && truncate -s 5M hole && printf end >>hole &&
chmod 6711 1/1 && chown -h 70000:5 link 2 2/* && setfattr -n user.note -v hello 0/0 && setfacl -m u:7:r,g:8:rw 3/3 && setfacl -d -m u:7:rx 3 &&
touch -h -d "2001-02-03 04:05:06.789" link 4/4 4 && setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= 1/18`, tree)
	list := func(where string) string {
		return oracle.Run(t, "sh", "-c", `cd "$0" && find . -name lost+found -prune -o -type d -printf '%p d %#m %U:%G %T@\n' -o -printf '%p %y %#m %U:%G %s %T@ %n %l\n' | sort && find . -type f | sort | xargs -d '\n' md5sum &&
find . -name lost+found -prune -o -print | sort | xargs -d '\n' getfattr -h -d -m - -e hex && stat -c '%t,%T' dev && getfacl -n 3 3/3`, where)
	}
	image := smallImage(t, dir)
	must(t, "rm", "-rf", image+":/etc", image+":/usr", image+":/home", image+":/lib")
	must(t, "cp", "-a", tree+"/.", image+":/")
	oracle.Fsck(t, image)
	want := list(tree)
	mounted := oracle.Mount(t, image, "ro,loop")
	if got := list(mounted); got != want {
		t.Errorf("the kernel sees %s", difference(got, want))
	}
	if out := oracle.Run(t, "du", "-k", mounted+"/hole"); !strings.HasPrefix(out, "4\t") && !strings.HasPrefix(out, "0\t") {
		t.Errorf("a hole takes %s", out)
	}
	oracle.Unmount(t, mounted)
	mounted = oracle.Mount(t, image, "loop")
	oracle.Run(t, "sh", "-c", `cd "$0" && rm 5/5 && cp -a 6/6 6/new && setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' x)" 6/6 && mkdir -p a/b/c && echo kernel >a/b/c/d`, mounted)
	want = list(mounted)
	oracle.Unmount(t, mounted)
	out := filepath.Join(dir, "out")
	must(t, "cp", "-a", image+":/", out)
	if got := list(out); got != want {
		t.Errorf("out come %s", difference(got, want))
	}
	tarball := filepath.Join(dir, "all.tar")
	must(t, "tar-out", image+":/", tarball)
	unpacked := filepath.Join(dir, "unpacked")
	oracle.Run(t, "sh", "-c", `mkdir "$1" && tar --xattrs --xattrs-include='*' --numeric-owner -C "$1" -xpf "$0"`, tarball, unpacked)
	if got := list(unpacked); got != want {
		t.Errorf("tar unpacks %s", difference(got, want))
	}
	two := smallImage(t, t.TempDir())
	must(t, "mkdir", two+":/all")
	must(t, "tar-in", tarball, two+":/all")
	oracle.Fsck(t, two)
	mounted = oracle.Mount(t, two, "ro,loop")
	if got := list(mounted + "/all"); got != want {
		t.Errorf("tar-in gives %s", difference(got, want))
	}
}

// difference is the first line in which two listings differ.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("%q, not %q", g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, not %d", len(g), len(w))
}
