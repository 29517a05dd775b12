package emulator_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/mconsole"
)

// managed boots a machine and returns it with what asks its management console, which
// fails the test unless the answer is OK.
func managed(t *testing.T, words ...string) (*guest.Machine, func(command string) string) {
	t.Helper()
	dir := t.TempDir()
	m := guest.Start(t, append([]string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + dir, "umid=T"}, words...)...)
	return m, func(command string) string {
		t.Helper()
		code, text := ask(t, filepath.Join(dir, "T", "mconsole"), command)
		if code != 0 {
			t.Errorf("%s: %d %s", command, code, text)
		}
		return text
	}
}

// TestStack holds that stack tells a task that sleeps in a system call, by its name and
// arguments, from one that computes, while the machine runs and while it is stopped.
func TestStack(t *testing.T) {
	m, do := managed(t, "initrd="+initrd(t), "con0=null,fd:1", "mount:proc,/proc,proc", "begin:spin", "sleep:100h")
	m.Expect(limit, "spinning")
	tasks := regexp.MustCompile(`task:(\S+) +state:(\w) .* pid:(\d+)`)
	for _, held := range []bool{false, true} {
		if held {
			do("stop")
		}
		// Threads of Go's runtime come and go.
		var asleep, computing string
		for deadline := time.Now().Add(limit); asleep == "" || computing == ""; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("held: %v; asleep %q, computing %q", held, asleep, computing)
			}
			for _, task := range tasks.FindAllStringSubmatch(do("sysrq t"), -1) {
				text := do("stack " + task[3])
				if strings.Contains(text, "In system call") && strings.Contains(text, "state:S (sleeping)") {
					asleep = text
				} else if strings.Contains(text, "state:R (running)") {
					computing = text
				}
			}
		}
		for what, pattern := range map[string]string{
			asleep:    `(?s)^task:\S+ +state:S .*\nIn system call \d+ (futex|epoll_pwait|nanosleep)\(0x[0-9a-f]+(, 0x[0-9a-f]+){5}\)\n.*RIP: .*RSP: .*ORIG_RAX: .*Call Trace:\n \[<[0-9a-f]+>\] /init\+0x[0-9a-f]+\n \[<[0-9a-f]+>\] /init\+.*\nStack:\n`,
			computing: `(?s)^task:\S+ +state:R [^\n]*\n +RIP: .*Call Trace:\n \[<[0-9a-f]+>\] \S+\+0x[0-9a-f]+\n`,
		} {
			if !regexp.MustCompile(pattern).MatchString(what) {
				t.Errorf("held: %v: %s is not\n%s", held, pattern, what)
			}
		}
	}
	do("go")
	// What was held takes a while to run again.
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		text := do("sysrq l")
		if strings.Contains(text, "Call Trace:") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("sysrq l shows no backtrace: %q", text)
		}
	}
	do("halt")
	m.Wait(limit)
}

// TestStopAndGo holds that no task of the guest runs between stop and go, and that time
// has gone on meanwhile.
func TestStopAndGo(t *testing.T) {
	m, do := managed(t, "initrd="+initrd(t), "con0=null,fd:1", "beat")
	m.Expect(limit, "beat 10 ")
	var pauses [][2]int64
	for range 3 {
		do("stop")
		stopped := time.Now().UnixNano()
		time.Sleep(50 * time.Millisecond)
		pauses = append(pauses, [2]int64{stopped, time.Now().UnixNano()})
		do("go")
		// What has passed already is of before the stop.
		n := strings.Count(m.Terminal(), "beat ")
		m.Expect(limit, fmt.Sprintf(`beat %d \d+\r*\n`, n+5))
	}
	beats := regexp.MustCompile(`beat (\d+) (\d+)\r*\n`).FindAllStringSubmatch(m.Terminal(), -1)
	for i, b := range beats {
		n, err := strconv.Atoi(b[1])
		if err != nil || n != i {
			t.Fatalf("beat %s where %d was due", b[1], i)
		}
		at, err := strconv.ParseInt(b[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pauses {
			if at > p[0] && at < p[1] {
				t.Errorf("a task ran %v after stop", time.Duration(at-p[0]))
			}
		}
	}
	if last, _ := strconv.ParseInt(beats[len(beats)-1][2], 10, 64); last < pauses[len(pauses)-1][1] {
		t.Errorf("the guest's clock stood still")
	}
	do("halt")
	m.Wait(limit)
}

// TestEveryProcFile holds that proc reads every file below /proc that the guest sees, and
// that none of them harms the machine.
func TestEveryProcFile(t *testing.T) {
	m, do := managed(t, "initrd="+initrd(t), "con0=null,fd:1", "mconsole=notify:/nowhere", "mount:proc,/proc,proc", "walk:/proc", "forever")
	m.Expect(limit, "waiting")
	names := regexp.MustCompile(`file /proc/(\S+)\r`).FindAllStringSubmatch(m.Terminal(), -1)
	if len(names) < 100 {
		t.Fatalf("%d files in /proc", len(names))
	}
	for _, name := range names {
		if strings.HasPrefix(name[1], "self/") || strings.HasPrefix(name[1], "thread-self/") {
			continue
		}
		switch filepath.Base(name[1]) {
		case "sysrq-trigger", "mconsole", "mem":
			continue // to be written alone; nothing is mapped at 0
		}
		if regexp.MustCompile(`^\d+/task/\d+/|^([2-9]|\d\d+)/`).MatchString(name[1]) {
			continue // threads come and go
		}
		code, text := ask(t, filepath.Join(filepath.Dir(socketOf(t, m)), "mconsole"), "proc "+name[1])
		if code != 0 || !strings.HasPrefix(text, "\n") {
			t.Errorf("proc %s: %d %q", name[1], code, text)
		}
	}
	for name, want := range map[string]string{
		"1/status": "Name:\tinit", "sys/kernel/hostname": "(none)", "1/cmdline": "/init", "/uptime": ".", "net/dev": "lo", "self/status": "Name:\tinit", "mounts": "/proc proc",
	} {
		if text := do("proc " + name); !strings.Contains(text, want) {
			t.Errorf("proc %s: %q", name, text)
		}
	}
	do("halt")
	m.Wait(limit)
}

// socketOf is where the log says that the management console is.
func socketOf(t *testing.T, m *guest.Machine) string {
	t.Helper()
	at := regexp.MustCompile(`mconsole \(version 2\) initialized on (\S+)`).FindStringSubmatch(m.Terminal())
	if at == nil {
		t.Fatal("the log does not say where the management console is")
	}
	return at[1]
}

// TestInterrupts holds that each command counts an interrupt of the mconsole line, and
// that disks and consoles have theirs.
func TestInterrupts(t *testing.T) {
	m, do := managed(t, "ubd0="+image(t), "con0=fd:0,fd:1", "mount:proc,/proc,proc", "say:type", "key", "say:typed", "forever")
	m.Expect(limit, `\ntype\r*\n`)
	m.Type("x\n")
	m.Expect(limit, "waiting")
	count := func(line string) int {
		t.Helper()
		text := do("proc interrupts")
		if !strings.HasPrefix(text, "\n           CPU0 ") {
			t.Fatalf("%q", text)
		}
		n := regexp.MustCompile(`(?m)^ +\d+: +(\d+)  SIGIO +` + line + `$`).FindStringSubmatch(text)
		if n == nil {
			t.Fatalf("no line %s: %q", line, text)
		}
		v, err := strconv.Atoi(n[1])
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := count("mconsole")
	for range 5 {
		do("version")
	}
	if n := count("mconsole") - before; n != 6 {
		t.Errorf("5 commands and a look count as %d", n)
	}
	for _, line := range []string{"ubd", "console", "console-write"} {
		if count(line) == 0 {
			t.Errorf("no interrupts of %s", line)
		}
	}
	do("halt")
	m.Wait(limit)
}

// TestDirectoryIsTheOwners holds that nobody else reaches a machine's directory, also
// where a real kernel has left one that is open to all, and that one of another user or
// a link is not taken.
func TestDirectoryIsTheOwners(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "T")
	for _, left := range []bool{false, true} {
		if left {
			if err := os.Mkdir(name, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(name, "pid"), []byte("999999999\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m := guest.Start(t, guest.Binary(t, "linux"), "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "forever")
		m.Expect(limit, "waiting")
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("left behind: %v: the directory has mode %v", left, info.Mode())
		}
		if pid := read(t, filepath.Join(name, "pid")); pid != fmt.Sprintf("%d\n", m.PID()) {
			t.Errorf("pid holds %q", pid)
		}
		m.Signal(unix.SIGTERM)
		m.Wait(limit)
	}
	other := t.TempDir()
	if err := os.Symlink(other, name); err != nil {
		t.Fatal(err)
	}
	refused := func(why string) {
		t.Helper()
		out, _ := guest.Output(t, limit, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1")
		want(t, out, `umid "T": `+name+why, "initialized on "+dir+"/")
	}
	refused(": not a directory")
	if left, _ := os.ReadDir(other); len(left) != 0 {
		t.Errorf("put behind the link: %v", left)
	}
	if os.Geteuid() == 0 {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(name, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(name, 1000, 1000); err != nil {
			t.Fatal(err)
		}
		refused(" belongs to user 1000")
	}
}

// TestSysrqKeys holds what each key does that does not end the machine; TestAbruptEnds
// and TestSysrqEnds have the others.
func TestSysrqKeys(t *testing.T) {
	m, do := managed(t, "initrd="+initrd(t), "con0=fd:0,fd:1", "mount:proc,/proc,proc", "begin:sigwait", "begin:sleep:1ns+forever", "say:begun", "key", "cat:/proc/sys/kernel/printk", "forever")
	m.Expect(limit, `\nbegun\r*\n`)
	for key, pattern := range map[string]string{
		"t": `(?m)^task:init +state:. .* pid:1 `, "w": `Show Blocked State`, "m": `Mem-Info: total:65536kB used:\d+kB`, "l": `Show backtrace of all active CPUs`,
		"h": `HELP : loglevel`, "?": `HELP : loglevel`, "s": `Emergency Sync`, "": `HELP : loglevel`,
	} {
		if text := do("sysrq " + key); !strings.HasPrefix(text, "sysrq: ") || !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("sysrq %s: %q", key, text)
		}
	}
	// As in Linux the parent is the thread of init that forked, whichever it was.
	children := regexp.MustCompile(`state:[RSD] .* ppid:[1-9]`)
	if text := do("sysrq t"); len(children.FindAllString(text, -1)) < 2 {
		t.Fatalf("children of init: %s", text)
	}
	do("sysrq e")
	m.Expect(limit, "Terminate All Tasks")
	do("sysrq i")
	// Of what init began nothing runs any more; it does not wait for them.
	for deadline := time.Now().Add(limit); children.MatchString(do("sysrq t")); {
		if time.Now().After(deadline) {
			t.Fatalf("they live on: %s", do("sysrq t"))
		}
	}
	do("sysrq 3")
	m.Type("x\n")
	m.Expect(limit, `printk\r*\n3\t4\t1\t7\r*\n`)
	do("sysrq 0")
	do("sysrq 9")
	do("sysrq h")
	m.Expect(limit, "HELP : ")
	do("halt")
	m.Wait(limit)
}

// TestSysrqEnds holds that o switches off and c crashes.
func TestSysrqEnds(t *testing.T) {
	for key, end := range map[string]struct {
		status int
		words  string
	}{"o": {0, "reboot: Power down"}, "c": {134, "Kernel panic - not syncing: sysrq triggered crash"}} {
		m, do := managed(t, "initrd="+initrd(t), "con0=null,fd:1", "forever")
		m.Expect(limit, "waiting")
		do("sysrq " + key)
		m.Expect(limit, end.words)
		if status := m.Wait(limit); status != end.status {
			t.Errorf("sysrq %s: exit status %d", key, status)
		}
	}
}

// TestSysrqSync holds that s makes what was written stable, and u all of it and the
// filesystem read-only: the machine is killed then.
func TestSysrqSync(t *testing.T) {
	for key, done := range map[string]string{"s": "Emergency Sync complete", "u": "Emergency Remount complete"} {
		img := image(t)
		m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+t.TempDir(), "ubd0="+img, "rw", "con0=fd:0,fd:1", "mount:proc,/proc,proc",
			"write:/x,text", "write:/proc/sysrq-trigger,"+key, "key", "write:/y,late", "cat:/proc/mounts", "forever")
		m.Expect(limit, done)
		m.Type("x\n")
		out := m.Expect(limit, "waiting")
		m.Signal(unix.SIGKILL)
		m.Wait(limit)
		header := oracle.Run(t, "dumpe2fs", "-h", img)
		if key == "u" {
			if strings.Contains(header, "needs_recovery") {
				t.Errorf("u left the filesystem in use")
			}
			clean(t, img)
			if !strings.Contains(out, "/y,late: open /y: read-only file system") || !regexp.MustCompile(`/dev/ubda / ext4 ro[ ,]`).MatchString(out) {
				t.Errorf("u: not read-only:\n%s", out)
			}
		}
		out, _ = boot(t, "ubd0="+img, "rw", "cat:/x")
		want(t, out, "== /x\ntext")
	}
}

// TestSysrqBehindBreak holds that a break on the console's line and a key are sysrq, that
// what comes before and after them is the guest's, and that /proc/sys/kernel/sysrq
// forbids keys from outside alone.
func TestSysrqBehindBreak(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "ssl0=port:"+address, "console=ttyS0",
		"mount:proc,/proc,proc", "echo:3", "write:/proc/sys/kernel/sysrq,16", "say:masked", "echo:1", "write:/proc/sysrq-trigger,m", "forever")
	var client net.Conn
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if client, err = net.Dial("tcp", address); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(limit))
	seen := ""
	expect := func(pattern string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		b := make([]byte, 4096)
		for !re.MatchString(seen) {
			n, err := client.Read(b)
			if seen += string(b[:n]); err != nil {
				t.Fatalf("%v; no %s in %q", err, pattern, seen)
			}
		}
		seen = seen[re.FindStringIndex(seen)[1]:]
	}
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(client, text); err != nil {
			t.Fatal(err)
		}
	}
	const brk = "\xff\xf3"
	expect("echoing")
	say("before" + brk + "hafter")
	expect(`sysrq: HELP : `)
	say("\r\n")
	expect(`line "beforeafter"`)
	say(brk)
	say("m")
	expect(`sysrq: Show Memory`)
	say("second\r\n")
	expect(`line "second"`)
	say("third\r\n")
	expect("masked")
	expect("echoing")
	say(brk + "m")
	expect(`sysrq: This sysrq operation is disabled`)
	say(brk + "s")
	expect(`sysrq: Emergency Sync`)
	expect(`Emergency Sync complete`)
	say("fourth\r\n")
	expect(`line "fourth"`)
	expect(`sysrq: Show Memory`) // who writes to the file is not asked
	expect(`waiting`)
	if code, text := ask(t, filepath.Join(dir, "T", "mconsole"), "sysrq b"); code != 0 || text != "sysrq: This sysrq operation is disabled." {
		t.Errorf("%d %q", code, text)
	}
	ask(t, filepath.Join(dir, "T", "mconsole"), "halt")
	m.Wait(limit)
}

// TestListed holds that a machine that runs is found by its socket, answers, and is known
// as gone at once when it was killed.
func TestListed(t *testing.T) {
	m, _ := managed(t, "initrd="+initrd(t), "con0=null,fd:1", "forever")
	m.Expect(limit, "waiting")
	find := func() mconsole.Machine {
		t.Helper()
		for _, found := range mconsole.Discover(filepath.Dir(filepath.Dir(socketOf(t, m)))) {
			if found.Socket == socketOf(t, m) {
				mine := []mconsole.Machine{found}
				mconsole.Client{Timeout: limit}.Ask(t.Context(), mine)
				return mine[0]
			}
		}
		t.Fatal("the machine is not found")
		return mconsole.Machine{}
	}
	if found := find(); found.State != mconsole.Running || found.PID != m.PID() || found.UMID != "T" || !strings.HasPrefix(found.Version, "Linux (none) ") {
		t.Errorf("%+v", found)
	}
	m.Signal(unix.SIGKILL)
	m.Wait(limit)
	if found := find(); found.State != mconsole.Stale || found.Version != "" {
		t.Errorf("killed: %+v", found)
	}
}
