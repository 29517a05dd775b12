package emulator_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// ownGuest builds a program of testdata/own and returns where it is, and what runs it in a guest on
// platform=own: behind shell commands of the host's, with arguments.
func ownGuest(t *testing.T, name string) (program string, run func(host, args string) string) {
	t.Helper()
	dir := t.TempDir()
	program, image := filepath.Join(dir, name), filepath.Join(dir, "disk.img")
	oracle.Run(t, oracle.Tool(t, "gcc"), "-O1", "-static", "-pthread", "-o", program, "testdata/own/"+name+".c")
	umlimg := guest.Binary(t, "umlimg")
	oracle.Run(t, umlimg, "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	oracle.Run(t, umlimg, "cp", program, image+":/bin/"+name)
	return program, func(host, args string) string {
		t.Helper()
		out, _ := guest.Output(t, time.Hour, "/bin/sh", "-c", host+`exec "$@"`, "sh", guest.Binary(t, "linux"), "platform=own",
			"ubd0="+image, "root=/dev/ubda", "ro", "quiet", "con=null", "con0=null,fd:2", "con1=fd:0,fd:1", "uml_dir="+dir+"/",
			"init=/bin/sh", "--", "-c", "/bin/"+name+" "+args)
		return strings.ReplaceAll(out, "\r", "")
	}
}

// TestRegisters holds patterns in every register of several threads and of forked children,
// while signals with alternate stacks come in.
func TestRegisters(t *testing.T) {
	_, run := ownGuest(t, "registers")
	signals := "300"
	if oracle.Nightly() {
		signals = "1000000"
	}
	if out := run("", signals); !strings.Contains(out, "signals 1 lost 0 children some") {
		t.Error(out)
	}
}

// TestMany begins more threads and processes than the host's limit of descriptors has room for: the
// guest is told to try again, and nothing dies of it. Nightly it begins 10,000 threads
// where there is room.
func TestMany(t *testing.T) {
	_, run := ownGuest(t, "many")
	const short = "threads some 11\nprocesses some 11, 0 died otherwise\n"
	if out := run("ulimit -Sn 150; ulimit -Hn 150; ", "400 400"); !strings.Contains(out, short+short) {
		t.Errorf("with 150 descriptors:\n%s", out)
	}
	if oracle.Nightly() {
		const enough = "threads all 0\nprocesses all 0, 0 died otherwise\n"
		if out := run("", "10000 1000"); !strings.Contains(out, enough+enough) {
			t.Errorf("with room for all:\n%s", out)
		}
	}
}

// TestHostileGuest runs programs that jump into the stub, write to what it shares with the kernel, put
// their stack there, and name its memory to system calls, beside one that notices what is
// done to it: the machine and that one live.
func TestHostileGuest(t *testing.T) {
	_, run := ownGuest(t, "hostile")
	rounds := 40
	if oracle.Nightly() {
		rounds = 20000
	}
	if out := run("", fmt.Sprintf("%d %d", oracle.Seed(t), rounds)); !strings.Contains(out, "hostile: some died, some lived, the victim's status is 0\n") {
		t.Error(out)
	}
}

// TestSemantics holds that a program sees of signals and their stacks, of threads, memory, ptrace and
// filters what it sees on the host.
func TestSemantics(t *testing.T) {
	program, run := ownGuest(t, "semantics")
	host := oracle.Run(t, program)
	if out := run("", ""); !strings.Contains(out, host) || !strings.HasSuffix(host, "killed: 31\n") {
		t.Errorf("in the guest:\n%s\non the host:\n%s", out, host)
	}
}

// TestUnheard holds that a machine says why it cannot run on platform=own where the host lets no
// stub be heard, and that auto runs there.
func TestUnheard(t *testing.T) {
	unheard := filepath.Join(t.TempDir(), "unheard")
	oracle.Run(t, oracle.Tool(t, "gcc"), "-O1", "-o", unheard, "testdata/own/unheard.c")
	argv := []string{unheard, guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + t.TempDir(), "initrd=" + initrd(t), "con0=null,fd:1", "say:alive"}
	out, status := guest.Output(t, limit, argv...)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, strings.ReplaceAll(out, "\r\n", "\n"), "seccomp=auto: system calls are caught by systrap\n", "alive\n")
	out, status = guest.Output(t, limit, append(argv, "platform=own")...)
	if want := "linux: platform own: make a stub thread: seccomp: invalid argument\n"; status != 1 || out != want {
		t.Errorf("exit status %d, %q instead of %q", status, out, want)
	}
}
