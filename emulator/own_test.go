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

// TestRegisters holds patterns in every register of several threads and of forked children
// on platform=own, while signals with alternate stacks come in.
func TestRegisters(t *testing.T) {
	dir := t.TempDir()
	program, image := filepath.Join(dir, "registers"), filepath.Join(dir, "disk.img")
	oracle.Run(t, oracle.Tool(t, "gcc"), "-O2", "-static", "-pthread", "-o", program, "testdata/own/registers.c")
	umlimg := guest.Binary(t, "umlimg")
	oracle.Run(t, umlimg, "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	oracle.Run(t, umlimg, "cp", program, image+":/bin/registers")
	signals := "300"
	if oracle.Nightly() {
		signals = "1000000"
	}
	out, _ := guest.Output(t, time.Hour, guest.Binary(t, "linux"), "platform=own", "ubd0="+image, "root=/dev/ubda", "ro", "quiet",
		"con=null", "con0=null,fd:2", "con1=fd:0,fd:1", "uml_dir="+dir+"/", "init=/bin/sh", "--", "-c", "registers "+signals)
	if !strings.Contains(out, "signals 1 lost 0 children some") {
		t.Error(out)
	}
}

// TestMany begins more threads and processes than the host's limit of descriptors has room for, on
// platform=own: the guest is told to try again, and nothing dies of it. Nightly it begins
// 10,000 threads where there is room.
func TestMany(t *testing.T) {
	dir := t.TempDir()
	program, image := filepath.Join(dir, "many"), filepath.Join(dir, "disk.img")
	oracle.Run(t, oracle.Tool(t, "gcc"), "-O2", "-static", "-pthread", "-o", program, "testdata/own/many.c")
	umlimg := guest.Binary(t, "umlimg")
	oracle.Run(t, umlimg, "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	oracle.Run(t, umlimg, "cp", program, image+":/bin/many")
	run := func(limit, command string) string {
		out, _ := guest.Output(t, time.Hour, "/bin/sh", "-c", limit+`exec "$@"`, "sh", guest.Binary(t, "linux"), "platform=own", "ubd0="+image, "root=/dev/ubda",
			"ro", "quiet", "con=null", "con0=null,fd:2", "con1=fd:0,fd:1", "uml_dir="+dir+"/", "init=/bin/sh", "--", "-c", command)
		return out
	}
	const short = "threads some 11\nprocesses some 11, 0 died otherwise\n"
	if out := strings.ReplaceAll(run("ulimit -Sn 150; ulimit -Hn 150; ", "many 400 400"), "\r", ""); !strings.Contains(out, short+short) {
		t.Errorf("with 150 descriptors:\n%s", out)
	}
	if oracle.Nightly() {
		const enough = "threads all 0\nprocesses all 0, 0 died otherwise\n"
		if out := strings.ReplaceAll(run("", "many 10000 1000"), "\r", ""); !strings.Contains(out, enough+enough) {
			t.Errorf("with room for all:\n%s", out)
		}
	}
}

// TestHostileGuest runs programs that jump into the stub, write to what it shares with the kernel, put
// their stack there, and name its memory to system calls, beside one that notices what is
// done to it: the machine and that one live, on platform=own.
func TestHostileGuest(t *testing.T) {
	dir := t.TempDir()
	program, image := filepath.Join(dir, "hostile"), filepath.Join(dir, "disk.img")
	oracle.Run(t, oracle.Tool(t, "gcc"), "-O1", "-static", "-pthread", "-o", program, "testdata/own/hostile.c")
	umlimg := guest.Binary(t, "umlimg")
	oracle.Run(t, umlimg, "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	oracle.Run(t, umlimg, "cp", program, image+":/bin/hostile")
	rounds := 48
	if oracle.Nightly() {
		rounds = 20000
	}
	out, _ := guest.Output(t, time.Hour, guest.Binary(t, "linux"), "platform=own", "ubd0="+image, "root=/dev/ubda", "ro", "quiet",
		"con=null", "con0=null,fd:2", "con1=fd:0,fd:1", "uml_dir="+dir+"/", "init=/bin/sh", "--", "-c",
		fmt.Sprintf("/bin/hostile %d %d", oracle.Seed(t), rounds))
	if !strings.Contains(out, "hostile: some died, some lived, the victim's status is 0") {
		t.Error(out)
	}
}
