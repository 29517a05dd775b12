package emulator_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
)

// TestStrace holds strace= into a file, into the kernel log, and changed by the management
// console.
func TestStrace(t *testing.T) {
	dir := t.TempDir()
	rd := "initrd=" + initrd(t)
	name := filepath.Join(dir, "calls")
	out, status := boot(t, rd, "strace=all:openat,write,exit_group,clone", "strace.file="+name, "cat:/no/such", "spawn:say hello", "say:end")
	if status != 0 {
		t.Errorf("exit status %d\n%s", status, out)
	}
	text := read(t, name)
	for _, pattern := range []string{
		`(?m)^\[ +1: +1\] init openat\(AT_FDCWD /, 0x[0-9a-f]+ /no/such, O_RDONLY\|[A-Z_|]+, 0o0\) = -1 errno=2 \(no such file or directory\) \([0-9.]+.?s\)$`,
		`(?m)^\[ +\d+: +\d+\] \w+ write\(0x1 .*, 0x[0-9a-f]+ "end\\n", 0x4\) = 4 \(0x4\)`,
		`(?m)^\[ +\d+: +\d+\] \w+ exit_group\(0x0\) = \?$`,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("no line %s in\n%s", pattern, text)
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if !regexp.MustCompile(`^\[.*\] \S+ (openat|write|exit_group|clone)\(`).MatchString(line) {
			t.Errorf("not asked for: %s", line)
		}
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}

	// A process, and tasks of a name, into the log, which the console does not show.
	script := "initrd=" + shell(t, "cd /none; sh -c 'cd /other'; dmesg | grep chdir")
	for tasks, sees := range map[string]string{"1": "/none", "comm:sh": "/other", "all": "/none"} {
		out, _ = boot(t, script, "strace="+tasks+":chdir")
		if strings.Count(out, "] strace: ") != strings.Count(out, " chdir(0x") || !strings.Contains(out, sees+") = -1 errno=2 (no such file or directory)") {
			t.Errorf("strace=%s:\n%s", tasks, out)
		}
		if both := strings.Contains(out, "/none) =") && strings.Contains(out, "/other) ="); both != (tasks == "all") {
			t.Errorf("strace=%s:\n%s", tasks, out)
		}
	}
	for word, reason := range map[string]string{"strace=every": "neither all, comm:NAME nor the number of a process", "strace=all:opem": `"opem" is no system call`} {
		if out, status := boot(t, rd, word); status != 1 || !strings.HasPrefix(out, "linux: "+word+": ") || !strings.Contains(out, reason) {
			t.Errorf("%s: status %d, %s", word, status, out)
		}
	}
	if out, status := boot(t, rd, "strace.file="+name); status != 1 || !strings.Contains(out, "strace= has to say") {
		t.Errorf("status %d, %s", status, out)
	}
	if out, status := boot(t, rd, "strace=all", "strace.file="+dir); status != 1 || !strings.Contains(out, "is a directory") {
		t.Errorf("status %d, %s", status, out)
	}
}

// TestStraceWhileRunning begins and ends tracing by the management console.
func TestStraceWhileRunning(t *testing.T) {
	dir := t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "initrd="+shell(t, `while read line; do echo "read $line"; dmesg | grep -c strace: ; done`), "con0=fd:0,fd:1")
	m.Expect(limit, "Run /init as init process")
	socket := filepath.Join(dir, "T", "mconsole")
	ask(t, socket, "version")
	for _, test := range []struct {
		command string
		code    int32
		text    string
	}{
		{"config strace", 0, ""}, {"remove strace", -19, "Nothing is traced"}, {"config strace=all:opem", -22, `"opem" is no system call`},
		{"config strace=comm:dmesg:execve,syslog", 0, ""}, {"config strace", 0, "comm:dmesg:execve,syslog"}, {"config strace1=all", 1, "Bad configuration option"},
	} {
		if code, text := ask(t, socket, test.command); code != test.code || text != test.text {
			t.Errorf("%s: %d %q; want %d %q", test.command, code, text, test.code, test.text)
		}
	}
	m.Type("one\n")
	m.Expect(limit, `read one\s+[1-9]`)
	if code, text := ask(t, socket, "remove strace"); code != 0 {
		t.Errorf("remove: %d %s", code, text)
	}
	m.Type("dmesg\n")
	m.Expect(limit, `read dmesg`)
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
}
