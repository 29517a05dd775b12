package reach

import (
	"fmt"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Discipline is a line discipline of the Sentry's: that of a pty in a devpts of its own,
// which no program sees. Its master side is what a line of the host is joined to; its
// replica side is what a terminal device delegates to, for the Sentry's own replica can
// be opened by tasks only, and does no job control.
//
// What is reached: the pty's unexported parts, by reflection when it is made, and the
// methods of its line discipline, by linkname. All methods may be called by any number
// of goroutines at once.
type Discipline struct {
	master *vfs.FileDescription
	ld     unsafe.Pointer

	tty       **kernel.TTY
	termiosMu *sync.RWMutex
	termios   *linux.KernelTermios
	sizeMu    *sync.Mutex
	size      *linux.Winsize
	replica   *waiter.Queue
	in, out   queue
}

// queue is the reached part of one of the discipline's two queues.
type queue struct {
	mu         *sync.Mutex
	readBuf    *[]byte
	waitBufLen *uint64
	readable   *bool
}

// waiting is how many bytes the queue holds, processed or not.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(*q.readBuf) + int(*q.waitBufLen)
}

// NewDiscipline makes a pty and reaches into it. From now on the signals of its special
// characters go to tty, whose index must be that of the pty: 0, as it is the first of
// its devpts. The context needs a kernel's clock.
func NewDiscipline(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, tty *kernel.TTY) (*Discipline, error) {
	if tty.Index() != 0 {
		return nil, fmt.Errorf("make a line discipline: the terminal has index %d, want 0", tty.Index())
	}
	fsType := &devpts.FilesystemType{}
	fs, root, err := fsType.GetFilesystem(ctx, vfsObj, creds, "", vfs.GetFilesystemOptions{Data: "newinstance"})
	if err != nil {
		return nil, fmt.Errorf("make a devpts: %w", err)
	}
	mnt := vfsObj.NewDisconnectedMount(fs, root, &vfs.MountOptions{})
	defer mnt.DecRef(ctx)
	at := vfs.MakeVirtualDentry(mnt, root)
	master, err := vfsObj.OpenAt(ctx, creds, &vfs.PathOperation{Root: at, Start: at, Path: fspath.Parse("ptmx")}, &vfs.OpenOptions{Flags: linux.O_RDWR})
	if err != nil {
		return nil, fmt.Errorf("open the master of a pty: %w", err)
	}
	d, err := reachDiscipline(master)
	if err != nil {
		master.DecRef(ctx)
		return nil, err
	}
	*d.tty = tty
	// Without an open replica the master gets EIO instead of waiting.
	ldReplicaOpen(d.ld)
	return d, nil
}

// reachDiscipline finds the parts of the pty behind an open master.
func reachDiscipline(master *vfs.FileDescription) (d *Discipline, err error) {
	defer func() {
		// A reflect.Value of another kind than expected panics.
		if r := recover(); r != nil {
			d, err = nil, fmt.Errorf("gVisor's devpts has changed: %v", r)
		}
	}()
	d = &Discipline{master: master}
	terminal := deref(reflect.ValueOf(master.Impl()).Elem().FieldByName("t"))
	d.tty = reachField[*kernel.TTY](terminal, "replicaKTTY")
	ld := deref(terminal.FieldByName("ld"))
	d.ld = ld.Addr().UnsafePointer()
	d.termiosMu = reachField[sync.RWMutex](ld, "termiosMu")
	d.termios = reachField[linux.KernelTermios](ld, "termios")
	d.sizeMu = reachField[sync.Mutex](ld, "sizeMu")
	d.size = reachField[linux.Winsize](ld, "size")
	d.replica = reachField[waiter.Queue](ld, "replicaWaiter")
	d.in = reachQueue(ld.FieldByName("inQueue"))
	d.out = reachQueue(ld.FieldByName("outQueue"))
	return d, nil
}

// deref follows a pointer in an unexported field.
func deref(pointer reflect.Value) reflect.Value {
	return reflect.NewAt(pointer.Type().Elem(), pointer.UnsafePointer()).Elem()
}

func reachQueue(v reflect.Value) queue {
	return queue{
		mu:         reachField[sync.Mutex](v, "mu"),
		readBuf:    reachField[[]byte](v, "readBuf"),
		waitBufLen: reachField[uint64](v, "waitBufLen"),
		readable:   reachField[bool](v, "readable"),
	}
}

// reachField is the address of a field of a struct, exported or not. It panics when
// there is none of that name and type.
func reachField[T any](v reflect.Value, name string) *T {
	f := v.FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		panic(fmt.Sprintf("%v has no field %s of type %v", v.Type(), name, reflect.TypeFor[T]()))
	}
	return (*T)(f.Addr().UnsafePointer())
}

// Master is the master side. Reading it takes the output, writing it gives input.
func (d *Discipline) Master() *vfs.FileDescription { return d.master }

// Read takes input, as a program does that reads the terminal.
func (d *Discipline) Read(ctx context.Context, dst usermem.IOSequence) (int64, error) {
	return ldInputQueueRead(d.ld, ctx, dst)
}

// Write gives output, as a program does that writes the terminal.
func (d *Discipline) Write(ctx context.Context, src usermem.IOSequence) (int64, error) {
	return ldOutputQueueWrite(d.ld, ctx, src)
}

// Readiness is that of the replica side. An end of file that was typed is readable.
func (d *Discipline) Readiness() waiter.EventMask {
	ready := ldReplicaReadiness(d.ld)
	d.in.mu.Lock()
	if *d.in.readable {
		ready |= waiter.ReadableEvents
	}
	d.in.mu.Unlock()
	return ready
}

// Replica is the queue of those who wait on the replica side.
func (d *Discipline) Replica() *waiter.Queue { return d.replica }

// Termios are the modes.
func (d *Discipline) Termios() linux.KernelTermios {
	d.termiosMu.RLock()
	defer d.termiosMu.RUnlock()
	return *d.termios
}

// SetTermios is TCSETS, or TCSETS2 when two is set, by a task.
func (d *Discipline) SetTermios(t *kernel.Task, args arch.SyscallArguments, two bool) error {
	set := ldSetTermios
	if two {
		set = ldSetTermios2
	}
	_, err := set(d.ld, t, args)
	return err
}

// Size is the size of the window.
func (d *Discipline) Size() linux.Winsize {
	d.sizeMu.Lock()
	defer d.sizeMu.Unlock()
	return *d.size
}

// SetSize sets the size of the window and says whether it was another. It signals nobody.
func (d *Discipline) SetSize(size linux.Winsize) bool {
	d.sizeMu.Lock()
	defer d.sizeMu.Unlock()
	changed := *d.size != size
	*d.size = size
	return changed
}

// Flush drops what the queues hold: TCIFLUSH, TCOFLUSH or TCIOFLUSH of a program.
func (d *Discipline) Flush(which uint32) error {
	const replicaEndpoint = 1
	return ldTCFlush(d.ld, replicaEndpoint, which)
}

// Readable is how many bytes Read would give now.
func (d *Discipline) Readable() int {
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	if !*d.in.readable {
		return 0
	}
	return len(*d.in.readBuf)
}

// Unsent is how many bytes of output the master has not taken yet.
func (d *Discipline) Unsent() int { return d.out.waiting() }

// Close lets go of the pty.
func (d *Discipline) Close(ctx context.Context) { d.master.DecRef(ctx) }

//go:linkname ldInputQueueRead gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).inputQueueRead
func ldInputQueueRead(ld unsafe.Pointer, ctx context.Context, dst usermem.IOSequence) (int64, error)

//go:linkname ldOutputQueueWrite gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).outputQueueWrite
func ldOutputQueueWrite(ld unsafe.Pointer, ctx context.Context, src usermem.IOSequence) (int64, error)

//go:linkname ldReplicaReadiness gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).replicaReadiness
func ldReplicaReadiness(ld unsafe.Pointer) waiter.EventMask

//go:linkname ldReplicaOpen gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).replicaOpen
func ldReplicaOpen(ld unsafe.Pointer)

//go:linkname ldSetTermios gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).setTermios
func ldSetTermios(ld unsafe.Pointer, t *kernel.Task, args arch.SyscallArguments) (uintptr, error)

//go:linkname ldSetTermios2 gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).setTermios2
func ldSetTermios2(ld unsafe.Pointer, t *kernel.Task, args arch.SyscallArguments) (uintptr, error)

//go:linkname ldTCFlush gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts.(*lineDiscipline).tcFlush
func ldTCFlush(ld unsafe.Pointer, endpoint int, arg uint32) error
