package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/mconsole"
)

// TestMain is uml_mconsole itself when a test runs it on a terminal.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_UML_MCONSOLE") != "" {
		main()
	}
	os.Exit(m.Run())
}

// machine is the console of a machine that is not there: it answers each command by the
// replies it is given, and records it.
type machine struct {
	home, socket string
	asked        chan string
}

// startMachine makes a machine of that name below a home directory of its own, which
// becomes $HOME.
func startMachine(t *testing.T, name string, answer func(command string) [][]byte) *machine {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	m := &machine{home: home, socket: filepath.Join(home, ".uml", name, "mconsole"), asked: make(chan string, 100)}
	if err := os.MkdirAll(filepath.Dir(m.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	// The path may be longer than an address takes.
	dir, err := os.Open(filepath.Dir(m.socket))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/mconsole", dir.Fd()), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUnix(b)
			if err != nil {
				return
			}
			command, err := mconsole.DecodeRequest(b[:n])
			if err != nil {
				command = err.Error()
			}
			m.asked <- command
			for _, packet := range answer(command) {
				conn.WriteToUnix(packet, from)
			}
		}
	}()
	return m
}

func packets(err int32, text string) [][]byte {
	var all [][]byte
	for _, r := range mconsole.Replies(err, []byte(text)) {
		b, err := r.Encode()
		if err != nil {
			panic(err)
		}
		all = append(all, b)
	}
	return all
}

func answer(command string) [][]byte {
	switch command {
	case "version":
		return packets(0, "Linux (none) 6.18.0")
	case "help":
		return packets(0, "Commands: \n    version")
	case "config ubd9":
		return packets(-19, "Device doesn't exist")
	case "long":
		return packets(0, strings.Repeat("0123456789abcdef", 100))
	case "escape":
		return packets(0, "a\x1b[2Jb\x00c")
	}
	if strings.HasPrefix(command, "log ") {
		return packets(0, "")
	}
	return packets(1, "Unknown command")
}

func call(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	status = run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	m := startMachine(t, "debian", answer)
	log := filepath.Join(m.home, "log")
	if err := os.WriteFile(log, []byte(strings.Repeat("a line of sixteen\n", 40)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{"debian version", 0, "OK Linux (none) 6.18.0\n", ""},
		{m.socket + " version", 0, "OK Linux (none) 6.18.0\n", ""},
		{filepath.Dir(m.socket) + " version", 0, "OK Linux (none) 6.18.0\n", ""},
		{"debian config ubd9", 237, "ERR Device doesn't exist\n", ""},
		{"debian nonsense", 1, "ERR Unknown command\n", ""},
		{"debian help", 0, "OK Commands: \n    version\n" + localHelp, ""},
		{"debian long", 0, "OK " + strings.Repeat("0123456789abcdef", 100) + "\n", ""},
		{"debian mconsole-version", 0, "uml_mconsole client version 2\n", ""},
		{"debian quit", 0, "", ""},
		{"debian log -f " + log, 0, "OK \nOK \n", ""},
		{"debian log -f " + log + "x", 1, "", "uml_mconsole: open " + log + "x: no such file or directory\n"},
		{"debian int", 1, "", "uml_mconsole: the machine's process is not known: open " + filepath.Dir(m.socket) + "/pid: no such file or directory\n"},
		{"debian " + strings.Repeat("x", 512), 1, "", "uml_mconsole: the command has 512 bytes; a request takes 511\n"},
		{"none version", 1, "", fmt.Sprintf("uml_mconsole: no machine \"none\": there is no socket %s/.uml/none/mconsole, /tmp/uml/none/mconsole, none/mconsole, none\n", m.home)},
		{"", 1, "", usage},
		{"-x", 1, "", "uml_mconsole: there is no option -x\n" + usage},
		{"--help", 0, usage + localHelp, ""},
		{"-h", 0, usage + localHelp, ""},
		{"--json", 1, "", "uml_mconsole: --json goes with --list\n" + usage},
		{"--list debian", 1, "", "uml_mconsole: --list takes no machine: debian\n" + usage},
		{"--timeout", 1, "", "uml_mconsole: --timeout: its value is missing\n" + usage},
		{"--timeout 0 debian version", 1, "", "uml_mconsole: --timeout 0: a number of seconds more than 0 is wanted\n" + usage},
		{"--timeout 20.5 debian version", 0, "OK Linux (none) 6.18.0\n", ""},
		{"--completion csh", 1, "", "uml_mconsole: --completion: no script for \"csh\": bash, zsh or fish\n"},
	} {
		status, stdout, stderr := call(t, "", strings.Fields(test.args)...)
		if status != test.status || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("%s: status %d, stdout %q, stderr %q; want %d, %q, %q", test.args, status, stdout, stderr, test.status, test.stdout, test.stderr)
		}
	}
	var logged string
	for len(m.asked) > 0 {
		if text, ok := strings.CutPrefix(<-m.asked, "log "); ok {
			if !strings.HasSuffix(text, "\n") {
				t.Errorf("a piece of the log file ends within a line: %q", text)
			}
			logged += text
		}
	}
	if logged != strings.Repeat("a line of sixteen\n", 40) {
		t.Errorf("logged %q", logged)
	}
}

// What it prints goes to a full disk: it says so, and fails.
func TestFullStdout(t *testing.T) {
	startMachine(t, "debian", answer)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range []string{
		"--help", "--list", "--list --json", "--completion bash", "--complete -", "debian version", "debian help", "debian mconsole-version", "debian switch debian", "debian",
	} {
		var stderr bytes.Buffer
		status := run(t.Context(), strings.Fields(args), strings.NewReader("quit\n"), full, &stderr)
		if status != 1 || stderr.String() != "uml_mconsole: write /dev/full: no space left on device\n" {
			t.Errorf("%s: status %d, %q", args, status, &stderr)
		}
	}
}

// TestDiskPaths: the files of a disk are those that the caller names, wherever the machine
// runs, as the uml_mconsole of uml-utilities has it.
func TestDiskPaths(t *testing.T) {
	m := startMachine(t, "debian", answer)
	dir := filepath.Join(m.home, "disks")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, test := range []struct{ command, want string }{
		{"config ubd1=a.img", "config ubd1=DIR/a.img"},
		{"config ubdbr=./a.img", "config ubdbr=DIR/a.img"},
		{"config ubd1=a.cow,b.img", "config ubd1=DIR/a.cow,DIR/b.img"},
		{"config ubd1=a.cow:../b.img", "config ubd1=DIR/a.cow:DIR/../b.img"},
		{"config ubd1=a.img,,serial", "config ubd1=DIR/a.img,,serial"},
		{"config ubd1=a.cow,b.img,no/path", "config ubd1=DIR/a.cow,DIR/b.img,no/path"},
		{"config ubd1=/a.img,/b.img", "config ubd1=/a.img,/b.img"},
		{"config ubd1=two words.img", "config ubd1=DIR/two words.img"},
		{"config ubd1=", "config ubd1="},
		{"config ubd1", "config ubd1"},
		{"config con1=tty:a", "config con1=tty:a"},
		{"remove ubd1", "remove ubd1"},
	} {
		call(t, "", append([]string{"debian"}, strings.Fields(test.command)...)...)
		if got, want := <-m.asked, strings.ReplaceAll(test.want, "DIR", dir); got != want {
			t.Errorf("%s was sent as %q, want %q", test.command, got, want)
		}
	}
}

func TestPrompt(t *testing.T) {
	m := startMachine(t, "debian", answer)
	if err := os.Symlink(filepath.Dir(m.socket), filepath.Join(m.home, ".uml", "other")); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := call(t, "version\n\nconfig ubd9\nswitch none\nswitch other\nversion\nquit\nversion\n", "debian")
	want := "(debian) version\nOK Linux (none) 6.18.0\n(debian) \n(debian) config ubd9\nERR Device doesn't exist\n(debian) switch none\n" +
		"(debian) switch other\nSwitched to 'other'\n(other) version\nOK Linux (none) 6.18.0\n(other) quit\n"
	if status != 0 || stdout != want || !strings.HasPrefix(stderr, `no machine "none"`) {
		t.Errorf("status %d, stdout %q, stderr %q; want %q", status, stdout, stderr, want)
	}
	if status, stdout, _ := call(t, "", "debian"); status != 0 || stdout != "(debian) \n" {
		t.Errorf("no input: status %d, %q", status, stdout)
	}
}

// TestBadAnswers: none at all, half of one, nonsense.
func TestBadAnswers(t *testing.T) {
	half := mconsole.Replies(0, bytes.Repeat([]byte("x"), 1000))
	first, err := half[0].Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		packets        [][]byte
		stdout, stderr string
	}{
		"none":     {nil, "", "the machine does not answer: nothing came for 200ms"},
		"half":     {[][]byte{first}, "OK " + strings.Repeat("x", 511) + "\n", "nothing came for 200ms"},
		"short":    {[][]byte{{1, 2, 3}}, "", "mconsole reply: bad packet length 3"},
		"too long": {[][]byte{append(make([]byte, 8), 0xff, 0xff, 0, 0)}, "", "mconsole reply: bad len 65535"},
	} {
		m := startMachine(t, "bad", func(string) [][]byte { return test.packets })
		var out bytes.Buffer
		s := &session{ctx: t.Context(), out: &out, errs: &out, client: mconsole.Client{Socket: m.socket, Timeout: 200 * time.Millisecond}}
		status, err := s.do("version")
		if status != 1 || err == nil || !strings.Contains(err.Error(), test.stderr) || out.String() != test.stdout {
			t.Errorf("%s: status %d, %v, %q", name, status, err, &out)
		}
	}

	m := startMachine(t, "dead", answer)
	dead := filepath.Join(filepath.Dir(m.socket), "left")
	t.Chdir(filepath.Dir(dead))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "left", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close() // which leaves the name
	if status, _, stderr := call(t, "", dead, "version"); status != 1 || !strings.Contains(stderr, "connect to "+dead+": connection refused") {
		t.Errorf("a machine that was killed: status %d, %q", status, stderr)
	}
}

// TestMachineDies holds that a machine that goes while it is asked is not waited for.
func TestMachineDies(t *testing.T) {
	dir, err := os.MkdirTemp("", "ml")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	conn := socketOf(t, filepath.Join(dir, "dies"), 1)
	go func() {
		_, _ = conn.Read(make([]byte, 1000))
		conn.Close()
	}()
	status, _, stderr := call(t, "", "--timeout", "1000", filepath.Join(dir, "dies"), "version")
	if status != 1 || !strings.Contains(stderr, "/dies/mconsole: connection refused: its machine is gone\n") {
		t.Errorf("status %d, %q", status, stderr)
	}
}

func TestInterrupt(t *testing.T) {
	m := startMachine(t, "debian", answer)
	if err := os.WriteFile(filepath.Join(filepath.Dir(m.socket), "pid"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		t.Fatal(err)
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, os.Interrupt)
	defer signal.Stop(got)
	if status, _, stderr := call(t, "", "debian", "int"); status != 0 {
		t.Fatalf("status %d, %q", status, stderr)
	}
	select {
	case <-got:
	case <-time.After(5 * time.Second):
		t.Error("no SIGINT came")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(m.socket), "pid"), []byte("-1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := call(t, "", "debian", "int"); status != 1 || !strings.Contains(stderr, "holds no process number") {
		t.Errorf("pid -1: status %d, %q", status, stderr)
	}
}

// TestTerminal types at a prompt on a pty: editing, history, ^D; what a guest sends does
// not steer the terminal, and the terminal is given back as it was.
func TestTerminal(t *testing.T) {
	m := startMachine(t, "debian", answer)
	master, slave := pty(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "debian")
	cmd.Env = append(os.Environ(), "RUN_UML_MCONSOLE=1", "HOME="+m.home)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	screen := make(chan string, 1000)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				close(screen)
				return
			}
			screen <- string(b[:n])
		}
	}()
	seen := ""
	expect := func(pattern string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		timeout := time.After(10 * time.Second)
		for !re.MatchString(seen) {
			select {
			case s := <-screen:
				seen += s
			case <-timeout:
				t.Fatalf("no %q on the screen: %q", pattern, seen)
			}
		}
		seen = seen[re.FindStringIndex(seen)[1]:]
	}
	typed := func(s string) {
		if _, err := master.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	expect(`\(debian\) $`)
	typed("versiom\x7fn\r") // a typing error, mended
	expect(`OK Linux \(none\) 6\.18\.0\r\n`)
	expect(`\(debian\) $`)
	typed("escape\r")
	expect(`OK a\^\[\[2Jb\^@c\r\n`)
	expect(`\(debian\) $`)
	typed("\x1b[A\x1b[A\r") // the line before the last one
	expect(`OK Linux`)
	expect(`\(debian\) $`)
	typed("vers\t\r") // completed
	expect(`OK Linux`)
	expect(`\(debian\) $`)
	typed("co\tubd1\t") // which is one of several
	expect(`ubd1  ubd10  ubd11  ubd12  ubd13  ubd14  ubd15`)
	typed("2\t\r")
	expect(`ERR Unknown command\r\n`)
	expect(`\(debian\) $`)
	typed("\x04")
	if err := cmd.Wait(); err != nil {
		t.Errorf("^D: %v", err)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Errorf("the terminal was %+v and is %+v", *before, *after)
	}
}

func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRealKernel says the same to a real kernel as Debian's client does, and shows what it
// shows.
func TestRealKernel(t *testing.T) {
	kernel, theirs := oracle.RealUML(t), oracle.Tool(t, "uml_mconsole")
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{"bin", "sbin", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "cp", oracle.Tool(t, "busybox"), filepath.Join(tree, "bin/busybox"))
	init := "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\necho init is up\nwhile :; do /bin/busybox sleep 100; done\n"
	if err := os.WriteFile(filepath.Join(tree, "sbin/init"), []byte(init), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "root.img")
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", tree, image, "16M")

	// A home with a short name: the kernel and Debian's client put no longer one into
	// an address.
	home, err := os.MkdirTemp("", "mc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	t.Setenv("HOME", home)
	cmd := exec.Command(kernel, "mem=64M", "ubd0="+image, "root=/dev/ubda", "con=null", "con0=null,fd:1", "umid=debian")
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(string(read(t, console.Name())), "init is up"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the real kernel does not get to init:\n%s", read(t, console.Name()))
		}
	}
	for _, command := range []string{
		"version", "help", "config ubd0", "config ubd7", "config nosuch", "remove ubd7", "remove ubd0", "proc cmdline", "proc nosuch",
		"stack 99999", "sysrq h", "stop", "stop", "version", "go", "go", "nonsense", "", "mconsole-version", "quit",
	} {
		status, stdout, stderr := call(t, "", "debian", command)
		if command == "stop" || command == "go" {
			// These change the state; what the second of each says is known.
			t.Logf("%s: %d %q", command, status, stdout)
			continue
		}
		c := exec.Command(theirs, "debian", command)
		var out, errs bytes.Buffer
		c.Stdout, c.Stderr = &out, &errs
		err := c.Run()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		if status != c.ProcessState.ExitCode() || stdout != out.String() || stderr != errs.String() {
			t.Errorf("%q: %d %q %q; Debian's client: %d %q %q", command, status, stdout, stderr, c.ProcessState.ExitCode(), &out, &errs)
		}
	}
	for _, test := range []struct {
		command, stdout string
		status          int
	}{
		{"stop", "OK stopped\n", 0}, {"stop", "ERR Already stopped\n", 1}, {"go", "OK \n", 0}, {"go", "ERR Not stopped\n", 1},
	} {
		if status, stdout, _ := call(t, "", "debian", test.command); status != test.status || stdout != test.stdout {
			t.Errorf("%s: %d %q, want %d %q", test.command, status, stdout, test.status, test.stdout)
		}
	}
	const input = "version\nconfig ubd0\nnonsense\nhelp\nquit\n"
	_, stdout, _ := call(t, input, "debian")
	c := exec.Command(theirs, "debian")
	c.Stdin = strings.NewReader(input)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	if stdout != string(out) {
		t.Errorf("at the prompt: %q; Debian's client: %q", stdout, out)
	}
	if status, stdout, stderr := call(t, "", "debian", "int"); status != 0 {
		t.Errorf("int: %d %q %q", status, stdout, stderr)
	}
	select {
	case <-ended:
		ended <- nil
	case <-time.After(10 * time.Second):
		t.Error("the real kernel does not end by int")
	}
}

func TestManualPage(t *testing.T) {
	oracle.HoldsPage(t, "uml_mconsole", usage, func(option string) bool {
		_, err := parse([]string{option})
		return err == nil || !strings.Contains(err.Error(), "there is no option")
	})
}
