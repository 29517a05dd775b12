package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"rsc.io/script"
	"rsc.io/script/scripttest"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestMain is umlimg itself when the tests run it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_UMLIMG") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestScripts(t *testing.T) {
	engine := script.NewEngine()
	engine.Cmds = scripttest.DefaultCmds()
	engine.Cmds["umlimg"] = script.Program(os.Args[0], nil, time.Minute)
	engine.Cmds["status"], engine.Cmds["unchanged"] = statusCommand(false), statusCommand(true)
	for _, tool := range []string{"debugfs", "dumpe2fs", "e2fsck", "mkfifo", "modprobe", "nbdcopy", "nbdinfo", "qemu-img", "qemu-io", "resize2fs", "sfdisk", "sgdisk", "sh", "stat", "tar", "touch", "truncate", "xz", "zstd"} {
		engine.Cmds[tool] = script.Program(oracle.Tool(t, tool), nil, time.Minute)
	}
	env := append(os.Environ(), "RUN_UMLIMG=1", "UMLBOX="+guest.Binary(t, "umlbox"), "UMLIMG="+os.Args[0])
	scripttest.Test(t, t.Context(), engine, env, "testdata/*.txt")
}

// oneCall is held by each run in this process: cli keeps its help option in a variable.
var oneCall sync.Mutex

// call runs umlimg in this process.
func call(args ...string) (status int, stdout, stderr string) {
	return callWith(context.Background(), args...)
}

// callWith runs umlimg in this process until ctx ends.
func callWith(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	oneCall.Lock()
	defer oneCall.Unlock()
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"umlimg"}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, 0}, {[]string{"--help"}, 0}, {[]string{"version"}, 0}, {[]string{"create", "--help"}, 0},
		{[]string{"completion", "bash"}, 0}, {[]string{"completion", "fish"}, 0},
		{[]string{"creat"}, 2}, {[]string{"partition"}, 0}, {[]string{"partition", "lst"}, 2}, {[]string{"partition", "create", "--help"}, 0}, {[]string{"--nope"}, 2}, {[]string{"completion", "tcsh"}, 2}, {[]string{"completion", "zsh", "uml_moo"}, 0}, {[]string{"completion", "bash", "ls"}, 2}, {[]string{"completion", "bash", "umlimg", "x"}, 2},
		{[]string{"create"}, 2}, {[]string{"create", "--nope", image}, 2}, {[]string{"create", image, "--force"}, 2},
		{[]string{"create", "--size", "16Q", image}, 2}, {[]string{"create", "--blank", "--label", "x", image}, 2},
		{[]string{"create", "--fs-option", "block-size=3000", image}, 2}, {[]string{"create", "--fs-option", "features=^extent", image}, 2},
		{[]string{"create", "--fs-option", "features=encrypt", image}, 2}, {[]string{"create", "--fs-option", "features=casefold", image}, 2},
		{[]string{"create", "--fs-option", "features=verity", image}, 2},
		{[]string{"create", "--blank", "--size", "1M", image}, 0}, {[]string{"create", "--blank", "--size", "1M", image}, 1},
		{[]string{"create", "--from", filepath.Join(dir, "none"), image + "2"}, 1},
		{[]string{"create", "--blank", filepath.Join(dir, "none", "x")}, 1},
		{[]string{"resize", image}, 2}, {[]string{"resize", "--minimum", image, "1G"}, 2}, {[]string{"resize", image, "1Q"}, 2},
		{[]string{"resize", image, "--json"}, 2}, {[]string{"resize", image, "2M"}, 1},
	} {
		if got, stdout, stderr := call(c.args...); got != c.want || (got != 0) != (stderr != "") || strings.Count(stderr, "\n") > 1 {
			t.Errorf("%q: status %d, want %d\nstdout %s\nstderr %s", c.args, got, c.want, stdout, stderr)
		}
	}
}

// commands are all commands by their names, "cow create" among them.
func commands(list []*cli.Command, prefix string) map[string]*cli.Command {
	all := map[string]*cli.Command{}
	for _, c := range list {
		if len(c.Subcommands) == 0 {
			all[prefix+c.Name] = c
		}
		for name, c := range commands(c.Subcommands, c.Name+" ") {
			all[name] = c
		}
	}
	return all
}

// Each command has a page of its own (man/umlimg-NAME.1) with every option, and the page
// names none that is not there; umlimg.1 names every command, and no other.
func TestManualPages(t *testing.T) {
	man := filepath.Join(oracle.Root(t), "man")
	read := func(page string) string {
		text, err := os.ReadFile(filepath.Join(man, page))
		if err != nil {
			t.Error(err)
			return ""
		}
		oracle.Run(t, "mandoc", "-Tlint", "-W", "warning", filepath.Join(man, page))
		return string(text)
	}
	overview := read("umlimg.1")
	pages := map[string]bool{}
	for name, c := range commands(newApp(nil, nil, nil).Commands, "") {
		for _, f := range c.Flags {
			if u, ok := f.(cli.DocGenerationFlag); !ok || u.GetUsage() == "" {
				t.Errorf("--%s of %s has no help text", f.Names()[0], name)
			}
		}
		if c.Description == "" {
			t.Errorf("the help of %s has no examples", name)
		}
		if name == "completion" || name == "version" || name == "help" {
			if !strings.Contains(overview, ".Nm umlimg Cm "+name+"\n") {
				t.Errorf("the command %s is not in umlimg.1", name)
			}
			continue
		}
		page := "umlimg-" + strings.ReplaceAll(name, " ", "-")
		pages[page] = true
		text := read(page + ".1")
		if !strings.Contains(overview, ".It Xr "+page+" 1\n") {
			t.Errorf("the command %s is not in umlimg.1", name)
		}
		if !strings.Contains(text, ".Nm umlimg Cm "+name+"\n") || !strings.Contains(text, ".Nm "+page+"\n") || !strings.Contains(text, ".Sh EXAMPLES\n") {
			t.Errorf("%s.1 lacks the command's name, its line of the synopsis or examples", page)
		}
		documented := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^\.(?:It|It Xo) Fl -([a-z0-9-]+)`).FindAllStringSubmatch(text, -1) {
			documented[m[1]] = true
		}
		exists := map[string]bool{}
		for _, f := range c.Flags {
			for _, option := range f.Names() {
				if option == "help" {
					continue // of all, and in umlimg.1
				}
				exists[option] = true
				if len(option) > 1 && !documented[option] {
					t.Errorf("--%s is not in %s.1", option, page)
				}
			}
		}
		for _, m := range regexp.MustCompile(`Fl -([a-z0-9-]+)`).FindAllStringSubmatch(text, -1) {
			if !exists[m[1]] {
				t.Errorf("%s.1 names --%s, which does not exist", page, m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\.It Xr (umlimg-[a-z-]+) 1$`).FindAllStringSubmatch(overview, -1) {
		if !pages[m[1]] {
			t.Errorf("umlimg.1 names %s, which does not exist", m[1])
		}
	}
	page := read("umlimg-create.1")
	// Options of the file system, both ways too.
	_, section, _ := strings.Cut(page, ".It Fl -fs-option")
	section, _, _ = strings.Cut(section, "\n.El\n")
	var onPage, known []string
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm ([a-z-]+)$`).FindAllStringSubmatch(section, -1) {
		onPage = append(onPage, m[1])
	}
	for _, o := range fsOptions {
		known = append(known, o.name)
	}
	if !slices.Equal(onPage, known) {
		t.Errorf("the page has the file system options %v, umlimg knows %v", onPage, known)
	}
}

// Help is one text, however it is asked for, and has examples.
func TestHelp(t *testing.T) {
	for want, ways := range map[string][][]string{
		"umlimg":                {{}, {"--help"}, {"-h"}, {"help"}, {"-h", "create"}, {"help", "--"}},
		"umlimg create":         {{"create", "--help"}, {"create", "-h"}, {"create", "-h", "disk.img"}, {"help", "create"}},
		"umlimg ls":             {{"ls", "--help"}, {"ls", "-h"}, {"ls", "--help", "disk.img"}, {"help", "ls"}}, // which has a -h of its own
		"umlimg partition":      {{"partition"}, {"partition", "--help"}, {"partition", "-h"}, {"help", "partition"}},
		"umlimg partition list": {{"partition", "list", "--help"}, {"partition", "list", "-h"}, {"help", "partition", "list"}},
	} {
		var first string
		for i, args := range ways {
			status, stdout, stderr := call(args...)
			if i == 0 {
				first = stdout
			}
			if status != 0 || stderr != "" || stdout != first || !strings.HasPrefix(stdout, want+" - ") || !strings.Contains(stdout, "\nusage: "+want) ||
				!strings.Contains(stdout, "\nexamples:\n   umlimg ") {
				t.Errorf("%q: status %d, %q, %s", args, status, stderr, stdout)
			}
		}
	}
}

// sources are a tree and a tar of it, which an ordinary user may read.
func sources(t *testing.T) (dir, archive string) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "tree")
	for _, d := range []string{"etc", "usr/lib", "home/joe"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/shadow": "root:*:1:0:99999:7:::\n", "home/joe/file": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(top, "tree.tar.gz")
	oracle.Run(t, "tar", "--owner=joe:1234", "--group=joe:5678", "--mtime=@1000000000", "--sort=name", "-czf", archive, "-C", dir, ".")
	// The test's own directories are closed to others.
	for d := top; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir, archive
}

// The summary says what is in the image.
func TestJSONSummary(t *testing.T) {
	dir, _ := sources(t)
	image := filepath.Join(t.TempDir(), "disk.img")
	status, stdout, stderr := call("create", "--from", dir, "--size", "64M", "--label", "root", "--uuid", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "--json", image)
	if status != 0 || stderr != "" {
		t.Fatalf("status %d, stderr %q", status, stderr)
	}
	var got summary
	dec := json.NewDecoder(strings.NewReader(stdout))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	if got.Image != image || got.Size != 64<<20 || got.Allocated != st.Blocks*512 || got.UUID != "6ba7b810-9dad-41d1-80b4-00c04fd430c8" ||
		got.Label != "root" || got.Source != dir || got.Seconds <= 0 {
		t.Errorf("the summary is %+v", got)
	}
	// What e2fsck counts is the judge: inodes 1 to 10 are in use from the start.
	out := oracle.Run(t, "e2fsck", "-fnv", image)
	for label, want := range map[string]int64{"inodes used": got.Inodes + 9, "regular file": got.Files, "director": got.Directories, "symbolic link": got.Symlinks} {
		m := regexp.MustCompile(`(?m)^\s*(\d+) ` + label).FindStringSubmatch(out)
		if m == nil || m[1] != fmt.Sprint(want) {
			t.Errorf("e2fsck counts %v of %q, the summary %d\n%s", m, label, want, out)
		}
	}
}

// The option that completion scripts rely on names commands and options.
func TestCompletion(t *testing.T) {
	for want, args := range map[string][]string{"create": {}, "--hostname": {"create", "--h"}, "zsh": {"completion"}, "--minimum": {"resize", "--m"}} {
		// The library looks at the process's own arguments.
		cmd := exec.Command(os.Args[0], append(args, "--generate-bash-completion")...)
		cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v completes to %q (%v), not %q", args, out, err, want)
		}
	}
}

// One file and one script a command: resize.go and testdata/resize.txt. Those of "cow create"
// are cowcreate.go and cow-create.txt; list and create of partition share theirs.
func TestLayout(t *testing.T) {
	for name := range commands(newApp(nil, nil, nil).Commands, "") {
		if strings.HasPrefix(name, "partition ") {
			name = "partition"
		}
		source, script := strings.NewReplacer(" ", "", "-", "").Replace(name)+".go", "testdata/"+strings.ReplaceAll(name, " ", "-")+".txt"
		text, err := os.ReadFile(source)
		if err != nil || !regexp.MustCompile(`(?m)^func [a-zA-Z]+Command\(\) \*cli\.Command`).Match(text) {
			t.Errorf("%s: %s holds no command, %v", name, source, err)
		}
		if name == "completion" || name == "help" || name == "version" {
			continue // umlimg's own: TestCompletion, TestHelp, TestExitStatus
		}
		if text, err = os.ReadFile(script); err != nil || !strings.Contains(string(text), "umlimg "+name) && !strings.Contains(string(text), " "+name+" ") {
			t.Errorf("%s: %s does not run it, %v", name, script, err)
		}
	}
}
