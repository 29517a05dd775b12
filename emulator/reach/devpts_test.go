package reach

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
)

// nobody opens no terminal.
type nobody struct{}

func (nobody) OpenTTY(context.Context, *vfs.Mount, *vfs.Dentry, vfs.OpenOptions) (*vfs.FileDescription, error) {
	return nil, linuxerr.EIO
}
func (nobody) IncRef()                {}
func (nobody) DecRef(context.Context) {}

// TestDiscipline fails when an upgrade of gVisor changes what Discipline reaches into.
func TestDiscipline(t *testing.T) {
	s := sentrytest.New(t)
	tty := kernel.NewTTY(0, nobody{})
	d, err := NewDiscipline(s.Context, s.VFS, auth.CredentialsFromContext(s.Context), tty)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(s.Context)
	if *d.tty != tty {
		t.Error("signals go to another terminal")
	}
	if modes := d.Termios(); modes != linux.DefaultReplicaTermios {
		t.Errorf("modes %+v", modes)
	}
	if !d.SetSize(linux.Winsize{Row: 3, Col: 4}) || d.SetSize(linux.Winsize{Row: 3, Col: 4}) || d.Size().Col != 4 {
		t.Errorf("size %+v", d.Size())
	}
	e, woken := waiter.NewChannelEntry(waiter.ReadableEvents)
	d.Replica().EventRegister(&e)
	defer d.Replica().EventUnregister(&e)
	write := func(text string) {
		t.Helper()
		if n, err := d.Master().Write(s.Context, usermem.BytesIOSequence([]byte(text)), vfs.WriteOptions{}); err != nil || int(n) != len(text) {
			t.Fatalf("write %q = %d, %v", text, n, err)
		}
	}
	write("line\n")
	select {
	case <-woken:
	default:
		t.Error("input wakes nobody")
	}
	if d.Readable() != 5 || d.Readiness()&waiter.ReadableEvents == 0 {
		t.Errorf("%d bytes can be read, readiness %#x", d.Readable(), d.Readiness())
	}
	buf := make([]byte, 100)
	if n, err := d.Read(s.Context, usermem.BytesIOSequence(buf)); err != nil || string(buf[:n]) != "line\n" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if d.Unsent() != len("line\r\n") {
		t.Errorf("%d bytes are unsent, want the echo", d.Unsent())
	}
	if _, err := d.Write(s.Context, usermem.BytesIOSequence([]byte("out\n"))); err != nil {
		t.Error(err)
	}
	if n, err := d.Master().Read(s.Context, usermem.BytesIOSequence(buf), vfs.ReadOptions{}); err != nil || string(buf[:n]) != "line\r\nout\r\n" {
		t.Errorf("output %q, %v", buf[:n], err)
	}
	write("dropped\n")
	if err := d.Flush(linux.TCIOFLUSH); err != nil || d.Readable() != 0 || d.Unsent() != 0 {
		t.Errorf("flush: %v, %d and %d bytes are left", err, d.Readable(), d.Unsent())
	}
	write("\x04")
	if d.Readable() != 0 || d.Readiness()&waiter.ReadableEvents == 0 {
		t.Error("a typed end of file cannot be read")
	}
}
