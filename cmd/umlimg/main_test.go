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
	for _, tool := range []string{"debugfs", "dumpe2fs", "e2fsck", "mkfifo", "modprobe", "qemu-img", "qemu-io", "resize2fs", "sfdisk", "sgdisk", "sh", "stat", "tar", "touch", "truncate", "xz", "zstd"} {
		engine.Cmds[tool] = script.Program(oracle.Tool(t, tool), nil, time.Minute)
	}
	env := append(os.Environ(), "RUN_UMLIMG=1", "UMLBOX="+guest.Binary(t, "umlbox"), "UMLIMG="+os.Args[0])
	scripttest.Test(t, t.Context(), engine, env, "testdata/*.txt")
}

// call runs umlimg in this process.
func call(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(context.Background(), append([]string{"umlimg"}, args...), strings.NewReader(""), &out, &errs)
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
		{[]string{"creat"}, 2}, {[]string{"partition"}, 0}, {[]string{"partition", "lst"}, 2}, {[]string{"partition", "create", "--help"}, 0}, {[]string{"--nope"}, 2}, {[]string{"completion", "tcsh"}, 2},
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

// ordinary is a command of an ordinary user without capabilities, who may write to out.
func ordinary(t *testing.T, out string, argv ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		return exec.Command(argv[0], argv[1:]...)
	}
	if err := os.Chown(out, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return exec.Command(oracle.Tool(t, "setpriv"), append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"}, argv...)...)
}

// An ordinary user keeps the owners of an archive, and says who owns a directory's
// files.
func TestOrdinaryUser(t *testing.T) {
	dir, archive := sources(t)
	umlimg := guest.Binary(t, "umlimg")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"tar":       {[]string{"--from", archive}, "User:  1234   Group:  5678"},
		"owner":     {[]string{"--from", dir, "--owner", "5:6"}, "User:     5   Group:     6"},
		"map":       {[]string{"--from", dir, "--map-users", fmt.Sprintf("%d:70:10", os.Geteuid()), "--map-groups", fmt.Sprintf("%d:80", os.Getegid())}, "User:    70   Group:    80"},
		"as it is":  {[]string{"--from", dir}, fmt.Sprintf("User: %5d   Group: %5d", os.Geteuid(), os.Getegid())},
		"userland":  {[]string{"--umlbox", guest.Binary(t, "umlbox")}, ""},
		"from pipe": {[]string{"--from", "-"}, "User:  1234   Group:  5678"},
	} {
		out := filepath.Join(filepath.Dir(archive), "out-"+strings.ReplaceAll(name, " ", "-"))
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(out, "disk.img")
		argv := append([]string{umlimg, "create", "--size", "64M", "--hostname", "plain", "--root-password", "pw"}, c.args...)
		cmd := ordinary(t, out, append(argv, image)...)
		if name == "from pipe" {
			f, err := os.Open(archive)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.Stdin = f
		}
		if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		oracle.Fsck(t, image)
		if got := oracle.Run(t, "debugfs", "-R", "cat /etc/hostname", image); !strings.Contains(got, "plain\n") {
			t.Errorf("%s: the host name is %q", name, got)
		}
		if got := oracle.Run(t, "debugfs", "-R", "stat /home/joe/file", image); c.want != "" && !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q in\n%s", name, c.want, got)
		}
	}
}

// What cannot be read is named, and nothing is left.
func TestUnreadable(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("x"), 0) },
		"directory": func(path string) error { return os.Mkdir(path, 0) },
	} {
		dir, archive := sources(t)
		secret := filepath.Join(dir, "etc", "secret")
		if err := make(secret); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(filepath.Dir(archive), "out")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(out, "disk.img")
		text, err := ordinary(t, out, guest.Binary(t, "umlimg"), "create", "--from", dir, "--size", "64M", image).CombinedOutput()
		want := fmt.Sprintf("umlimg: create %s: open %s: permission denied\n", image, secret)
		if err == nil || string(text) != want {
			t.Errorf("%s: %v: %q, want %q", name, err, text, want)
		}
		if left, _ := os.ReadDir(out); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

// An interrupted umlimg leaves nothing and says so, also while it waits for someone to
// write into a pipe.
func TestSignals(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, _ := sources(t)
	for name, c := range map[string]struct {
		args []string
		sig  unix.Signal
		sent int // bytes that it reads before it waits for more
	}{
		"INT":          {[]string{"--from", "-"}, unix.SIGINT, 100},
		"TERM":         {[]string{"--from", "-"}, unix.SIGTERM, 100},
		"KILL":         {[]string{"--from", "-"}, unix.SIGKILL, 100},
		"nothing sent": {[]string{"--from", "-"}, unix.SIGINT, 0},
		"FIFO":         {[]string{"--from", fifo}, unix.SIGINT, 0},
		"password":     {[]string{"--root-password-file", "-", "--from", tree}, unix.SIGINT, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			args := append(append([]string{"create"}, c.args...), "--size", "64M", filepath.Join(dir, "disk.img"))
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), "RUN_UMLIMG=1")
			cmd.Stdin = r
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r.Close()
			if _, err := w.Write(make([]byte, c.sent)); err != nil {
				t.Fatal(err)
			}
			if c.sent > 0 {
				await(t, "umlimg reads", func() bool {
					left, err := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ)
					return err == nil && left == 0
				})
			} else {
				await(t, "umlimg begins the image", func() bool {
					fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
					return slices.ContainsFunc(fds, func(fd string) bool {
						name, _ := os.Readlink(fd)
						return strings.HasPrefix(name, dir)
					})
				})
			}
			if err := cmd.Process.Signal(c.sig); err != nil {
				t.Fatal(err)
			}
			stop := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
			cmd.Wait()
			if !stop.Stop() {
				t.Fatalf("%v does not end it", c.sig)
			}
			if c.sig != unix.SIGKILL && (cmd.ProcessState.ExitCode() != statusInterrupted || !strings.HasSuffix(stderr.String(), ": interrupted\n")) {
				t.Errorf("status %d, %q", cmd.ProcessState.ExitCode(), &stderr)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("it leaves %v", left)
			}
		})
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
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
	_, scriptText, _ := call("completion", "bash")
	cmd := exec.Command(oracle.Tool(t, "bash"), "-c", scriptText+`
PATH=$1:$PATH
COMP_WORDS=(umlimg create --host); COMP_CWORD=2; _umlimg; echo "${COMPREPLY[@]}"`, "bash", filepath.Dir(guest.Binary(t, "umlimg")))
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "--hostname" {
		t.Errorf("bash completes to %q, %v", out, err)
	}
}
