package emulator_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
)

// A console that cannot be opened must neither hang the boot nor go unsaid.
func TestBadConsole(t *testing.T) {
	linux := guest.Binary(t, "linux")
	out, status := guest.Output(t, 20*time.Second, linux, "uml_dir="+t.TempDir(), "con0=fd:77")
	if status != 1 || !strings.Contains(out, "con0: channel fd:77: descriptor 77: bad file descriptor") {
		t.Errorf("con0=fd:77: status %d, %q", status, out)
	}
	// One of the machine's own is as good as closed.
	for fd := 3; fd < 16; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			continue // the test itself was given it, and hands it on
		}
		out, status := guest.Output(t, 20*time.Second, linux, "uml_dir="+t.TempDir(), "ubd0="+disk(t, 1<<20), fmt.Sprintf("con3=fd:%d", fd))
		if status != 1 || !strings.Contains(out, fmt.Sprintf("con3: channel fd:%d: descriptor %d: bad file descriptor", fd, fd)) {
			t.Errorf("con3=fd:%d: status %d, %q", fd, status, out)
		}
	}
	// Open, but not for what the kernel log needs: the machine runs on without it.
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := exec.Command(linux, "uml_dir="+t.TempDir(), "con0=fd:0")
	cmd.Stdin = null
	ended := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended: // there is no root: the panic's SIGABRT
		if cmd.ProcessState.Success() {
			t.Error("a machine without a root ended well")
		}
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		t.Error("a console that is not open for writing hangs the machine")
	}
}
