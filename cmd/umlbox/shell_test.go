package main

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// Shell scripts run in our shell and in Debian's bash, both with our applets.
func TestShellScripts(t *testing.T) {
	scripts := []string{
		"echo hi; echo $((1+2*3)) $(echo sub) `echo old`", "x=5; echo ${x}y ${y:-def} ${x:+set} ${#x}", "x=abc.tar.gz; echo ${x%.*} ${x%%.*} ${x#*.} ${x##*.}", "for i in 1 2 3; do echo $i; done", "i=0; while [ $i -lt 3 ]; do echo $i; i=$((i+1)); done", "until false; do echo once; break; done", "case abc in a*) echo a;; *) echo other;; esac", "if true; then echo y; else echo n; fi", "f() { echo f $1 $#; return 3; }; f a b; echo $?",
		"echo a | cat | tr a b", "false || echo or; true && echo and; ! false; echo $?", "(cd d; pwd | grep -c d; x=1); echo ${x:-unset}", "{ echo a; echo b; } | wc -l", "echo out >f; cat f; echo more >>f; cat <f", "ls missing 2>/dev/null; echo $?", "ls missing >f 2>&1; wc -l <f", "cat <<E\nhere $((1+1))\nE", "cat <<'E'\nno $x\nE", "set -- a 'b c'; for i in \"$@\"; do echo \"<$i>\"; done; echo $#; shift; echo $1", "export A=1; sh -c 'echo $A'", "A=2 sh -c 'echo $A'; echo ${A:-none}", "echo *; echo d/*", "echo 'sq' \"dq $HOME\" esc\\ aped", "exit 7", "false; exit", "sh -c 'exit 3'; echo $?", "nosuchcommand; echo $?", "./a; echo $?", "./d; echo $?", "./exec", "chmod 755 numbers; echo 'echo script $1' >s; chmod +x s; ./s arg", "echo 'echo file $1' >s; sh s x", "printf 'echo from stdin\\nexit 4\\n' | sh; echo $?", "printf 'read x\\nthe line\\necho got $x\\n' | sh",
		"set -e; false; echo no", "sh -uc 'echo $nosuch; echo no' 2>/dev/null || echo refused", "set -x; echo traced", "sh -ec 'false; echo no'; echo $?", "trap 'echo bye' EXIT; echo hi", "trap 'echo bye' EXIT; exit 3", "umask 077; umask; touch f; ls -l f | cut -c 1-10", "unset HOME; echo ${HOME:-gone}", "readonly R=1; echo $R", "eval 'echo ev'; . ./s 2>/dev/null", "echo 'v=sourced' >s; . ./s; echo $v", "sleep 0.1 & wait; echo done", "sleep 5 & kill $!; wait $!; echo $?", "(exit 5) & wait $!; echo $?", "true & wait; echo w", "exec echo replaced; echo no", "(exec echo inner); echo outer", "exec >f; echo to file; cat f >&2 2>/dev/null", "x=$(exit 4); echo $?", "sh -c 'echo $0 $1' name arg; sh -c 'echo $0'", "command -v ls >/dev/null && echo found", "type nosuch >/dev/null 2>&1; echo $?", "test -f a && [ -d d ] && echo both", "IFS=:; set -- $(echo a:b:c); echo $2", "read a b <words; echo \"$b|$a\"", "while read l; do echo \"[$l]\"; done <a", "echo a >f & wait; cat f", "yes | head -n 2", "kill -0 $$ && echo alive", "kill -TERM $$; echo no", "sh -c 'kill -TERM $$'; echo $?", "sh -c 'kill -INT $$'; echo after", "cd d && cd - >/dev/null && ls -d d", "cd missing; echo $?", "pwd -P >/dev/null; echo ok", "printf '%s\\n' a b", "local x; echo", "alias q=echo; echo ok", "echo \"$(cat <<E\nnested\nE\n)\"", "if", "echo 'unterminated", "for", "echo )", "a=1 b=2; echo $a$b", "echo $$ | grep -c '[0-9]'", "times >/dev/null; echo t", "getopts ab: o -b x; echo $o $OPTARG", "echo ~ | grep -c /", "[ a = a ] && echo eq", "f() { local v=in; echo $v; }; v=out; f; echo $v", "case x in y) echo y;; x|z) echo xz;; esac", "echo one; exit 2 | true; echo $?",
	}
	for _, script := range scripts {
		t.Run(strings.ReplaceAll(script, "/", "|"), func(t *testing.T) {
			t.Parallel()
			ours := appletDir(t)
			want := playWith(t, oracle.Tool(t, "bash"), ours, script)
			got := playWith(t, filepath.Join(ours, "sh"), ours, script)
			// The shells name themselves and word errors differently.
			if got.stdout != want.stdout {
				t.Errorf("output\n%s\nwant\n%s(stderr %s)", got.stdout, want.stdout, got.stderr)
			}
			if got.status != want.status {
				t.Errorf("status %d, want %d (stderr %s)", got.status, want.status, got.stderr)
			}
			if got.tree != want.tree {
				t.Errorf("files\n%s\nwant\n%s", got.tree, want.tree)
			}
		})
	}
}

// A shell that ends leaves its background commands running.
func TestShellLeavesBackground(t *testing.T) {
	box := guest.Binary(t, "umlbox")
	dir := t.TempDir()
	cmd := exec.Command(box, "sh", "-c", "sh -c 'sleep 0.3; echo late >done' & exit 0")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + appletDir(t)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if m, _ := filepath.Glob(filepath.Join(dir, "done")); len(m) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the background command did not go on")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func shellAt(t *testing.T) *guest.Machine {
	t.Helper()
	// A program that a script runs in the background ignores SIGINT, and so would the
	// shell; what is caught here is as usual in the programs that are run.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	t.Cleanup(func() { signal.Stop(interrupts) })
	cmd := exec.Command(guest.Binary(t, "umlbox"), "sh")
	cmd.Env = []string{"PATH=" + appletDir(t), "PS1=READY ", "HOME=/", "TERM=vt100"}
	cmd.Dir = t.TempDir()
	m := guest.StartCmd(t, cmd)
	m.Expect(patience, "no job control")
	m.Expect(patience, "READY $")
	return m
}

const patience = 20 * time.Second

func TestShellInteractive(t *testing.T) {
	m := shellAt(t)
	m.Type("echo first\r")
	m.Expect(patience, "\nfirst\r\n.*READY $")
	m.Type("\x1b[A\r") // the line before, from history
	m.Expect(patience, "\nfirst\r\n.*READY $")
	m.Type("echo seXcond\x1b[D\x1b[D\x1b[D\x1b[D\x7f\r") // a correction within the line
	m.Expect(patience, "\nsecond\r\n.*READY $")
	m.Type("for i in 1 2; do\recho n$i\rdone\r")
	m.Expect(patience, "\n1?n1\r\nn2\r\n.*READY $")
	m.Type("jobs\r")
	m.Expect(patience, "no job control in this shell\r\n.*READY $")
	m.Type("cat\rline for cat\r") // what is typed ahead is the program's
	m.Expect(patience, "\nline for cat\r\n")
	m.Type("\x04")
	m.Expect(patience, "READY $")
	m.Type("read x\r")
	m.Type("a word\r")
	m.Expect(patience, "READY $")
	m.Type("echo =$x=\r")
	m.Expect(patience, "\n=a word=\r\n.*READY $")
	m.Type("exit 5\r")
	if code := m.Wait(patience); code != 5 {
		t.Errorf("exit status %d, want 5", code)
	}
}

func TestShellInterrupt(t *testing.T) {
	m := shellAt(t)
	m.Type("sleep 100; echo not this\r")
	time.Sleep(300 * time.Millisecond)
	m.Type("\x03")
	m.Expect(patience, "READY $")
	m.Type("echo $?\r")
	m.Expect(patience, "\n130\r\n.*READY $")
	m.Type("while :; do :; done\r") // the shell's own loop
	time.Sleep(300 * time.Millisecond)
	m.Type("\x03")
	m.Expect(patience, "READY $")
	m.Type("half a line\x03")
	m.Expect(patience, "READY $")
	m.Type("read x\r")
	time.Sleep(300 * time.Millisecond)
	m.Type("\x03")
	m.Expect(patience, "READY $")
	m.Type("if true\r")
	m.Expect(patience, "> $")
	m.Type("\x03")
	m.Expect(patience, "READY $")
	m.Type("sleep 100 &\r")
	m.Expect(patience, "READY $")
	m.Type("\x03echo still here\r")
	if text := m.Expect(patience, "\nstill here\r\n.*READY $"); strings.Contains(text, "not this") {
		t.Errorf("a list went on after ^C:\n%s", text)
	}
	m.Type("kill $! && wait; echo waited\r")
	m.Expect(patience, "\nwaited\r\n.*READY $")
	m.Type("\x04")
	if code := m.Wait(patience); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
}

// Without echo the terminal's own line is read, and nothing is shown.
func TestShellWithoutEcho(t *testing.T) {
	m := shellAt(t)
	m.Quiet()
	if out := m.Sh(patience, "echo 'a b'"); out != "a b\n" {
		t.Errorf("output %q", out)
	}
	if _, code := m.Try(patience, "(exit 9)"); code != 9 {
		t.Errorf("status %d, want 9", code)
	}
	m.Type("gone\x03")
	m.Expect(patience, "\n$")
	m.Sh(patience, "true")
	m.Type("exit\n")
	if code := m.Wait(patience); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
}

// A shell that is killed at its prompt gives the terminal back as it was.
func TestShellGivesTerminalBack(t *testing.T) {
	// Whoever runs the tests may ignore hangups, as nohup does; then the shell does too.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	box := guest.Binary(t, "umlbox")
	for _, end := range []string{"kill -TERM $$\r", "kill -HUP $$\r", "exit\r"} {
		dir := appletDir(t)
		cmd := exec.Command("/bin/dash", "-c", "stty -g; PS1='READY ' "+box+" sh; echo; stty -g; echo END")
		cmd.Env = []string{"PATH=" + dir, "TERM=vt100", "HOME=/"}
		m := guest.StartCmd(t, cmd)
		before := m.Expect(patience, "[0-9a-f:]+\r\n")
		m.Expect(patience, "READY $")
		m.Type(end)
		after := m.Expect(patience, "\n[0-9a-f]+:[0-9a-f:]+\r\nEND")
		if !strings.Contains(after, strings.TrimSpace(before)) {
			t.Errorf("%q: the terminal was\n%sand is\n%s", end, before, after)
		}
		m.Wait(patience)
	}
}
