package emulator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/hwrng"
	"github.com/umlkit/umlkit/emulator/klog"
	server "github.com/umlkit/umlkit/emulator/mconsole"
	"github.com/umlkit/umlkit/emulator/syscalls"
	"github.com/umlkit/umlkit/emulator/vec"
	"github.com/umlkit/umlkit/mconsole"
	"github.com/umlkit/umlkit/release"
)

// openManagement opens the management console, which outlasts a restart.
func (m *Machine) openManagement() {
	if m.umid == nil {
		return
	}
	s, err := server.Listen(filepath.Join(m.umid.dir, "mconsole"), management{m})
	if err != nil {
		m.printk(klog.Err, "%v", err)
		return
	}
	m.management = s
	m.notify(mconsole.NotifySocket, s.Path())
}

// announceManagement says in the log of a boot where the management console is.
func (m *Machine) announceManagement() {
	if m.management != nil {
		m.printk(klog.Info, "mconsole (version %d) initialized on %s", mconsole.Version, m.management.Path())
	}
}

// notify tells the socket of mconsole=notify: something.
func (m *Machine) notify(what mconsole.NotificationType, text string) {
	if m.config.Notify == "" {
		return
	}
	err := server.Notify(m.config.Notify, mconsole.Notification{Type: what, Data: []byte(text)})
	if err != nil {
		m.printk(klog.Err, "mconsole: %v", err)
	}
}

// management implements the console's commands.
type management struct{ m *Machine }

// Version implements mconsole.Machine.
func (c management) Version() string {
	node := c.m.config.HostName
	if s := c.m.current(); s != nil {
		node = s.k.RootUTSNamespace().HostName()
	}
	return strings.Join([]string{"Linux", node, release.Name, syscalls.Version, syscalls.Architecture()}, " ")
}

// Driver implements mconsole.Machine.
func (c management) Driver(name string) driver.Driver {
	switch name {
	case "ubd":
		return c.m.disks
	case hwrng.Name:
		return c.m.generator
	case vec.Name:
		return c.m.vecs
	case vec.Legacy:
		return c.m.eths
	case "strace":
		return c.m.strace
	}
	if s := c.m.current(); s != nil {
		if name == "mem" {
			return memoryDriver{s}
		}
		if d := s.terminals.Driver(name); d != nil {
			return d
		}
	}
	return nil
}

// Halt implements mconsole.Machine.
func (c management) Halt() { c.m.Halt() }

// Reboot implements mconsole.Machine.
func (c management) Reboot() { c.m.Reboot() }

// CtrlAltDel implements mconsole.Machine.
func (c management) CtrlAltDel() {
	if s := c.m.current(); s != nil {
		s.ctrlAltDel()
	}
}

// Stop implements mconsole.Machine.
func (c management) Stop() bool { return c.m.hold(true) }

// Go implements mconsole.Machine.
func (c management) Go() bool { return c.m.hold(false) }

// Sysrq implements mconsole.Machine.
func (c management) Sysrq(key byte) string {
	if s := c.m.current(); s != nil {
		return s.keyPressed(key)
	}
	return ""
}

// Log implements mconsole.Machine.
func (c management) Log(text string) { c.m.printk(klog.Notice, "%s", text) }

// errGone says that no kernel runs at the moment.
var errGone = errors.New("no kernel is running")

// onlooker is a context that may see what only a tracer of a task may.
type onlooker struct{ context.Context }

// Value implements context.Context.
func (o onlooker) Value(key any) any {
	if key == kernel.CtxCanTrace {
		return func(*kernel.Task, bool) bool { return true }
	}
	return o.Context.Value(key)
}

// ownEntries is a name below /proc without what leads to the reader's own entries: who
// asks from outside is no task, and sees those of the first.
func ownEntries(name string) string {
	name = strings.TrimLeft(name, "/")
	first, rest, _ := strings.Cut(name, "/")
	switch first {
	case "self", "thread-self":
		return strings.TrimSuffix("1/"+rest, "/")
	case "net", "mounts":
		return "1/" + name
	}
	return name
}

// maxProc bounds what is read of a file in /proc, in bytes.
const maxProc = 4 << 20

// ReadProc implements mconsole.Machine.
func (c management) ReadProc(name string) ([]byte, error) {
	s := c.m.current()
	if s == nil {
		return nil, errGone
	}
	ctx := onlooker{s.proc.NewContext(s.k)}
	mount, err := s.k.VFS().MountDisconnected(ctx, s.proc.Credentials, "proc", proc.Name,
		&vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
	if err != nil {
		return nil, err
	}
	defer mount.DecRef(ctx)
	root := vfs.MakeVirtualDentry(mount, mount.Root())
	root.IncRef()
	defer root.DecRef(ctx)
	file, err := s.k.VFS().OpenAt(ctx, s.proc.Credentials, &vfs.PathOperation{
		Root: root, Start: root, Path: fspath.Parse(ownEntries(name)), FollowFinalSymlink: true,
	}, &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_NONBLOCK})
	if err != nil {
		return nil, err
	}
	defer file.DecRef(ctx)
	var all bytes.Buffer
	chunk := make([]byte, 64<<10)
	for all.Len() < maxProc {
		n, err := file.Read(ctx, usermem.BytesIOSequence(chunk), vfs.ReadOptions{})
		all.Write(chunk[:n])
		if errors.Is(err, io.EOF) || err == nil && n == 0 || errors.Is(err, linuxerr.ErrWouldBlock) {
			// The last is a file that waits for more to come, as kmsg.
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", server.ErrRead, err)
		}
	}
	return all.Bytes(), nil
}

// Stack implements mconsole.Machine.
func (c management) Stack(pid int) (string, error) {
	s := c.m.current()
	if s == nil {
		return "", errGone
	}
	return s.stack(pid)
}

// Interrupted implements mconsole.Machine.
func (c management) Interrupted() {
	if s := c.m.current(); s != nil {
		s.managed.Add(1)
	}
}
