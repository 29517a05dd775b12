package uevent

import (
	"io"
	"math/bits"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sockfs"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/control"
	"gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// defaultBuffer is how many bytes a socket holds and sends at first, and
	// maxBuffer what it can be told to.
	defaultBuffer = 212992
	maxBuffer     = 128 << 20
	// overhead is what a waiting message counts besides its bytes.
	overhead = 256
)

// Socket is a socket of the protocol NETLINK_KOBJECT_UEVENT.
type Socket struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.LockFD
	socket.SendReceiveTimeout

	bus   *Bus
	netns *inet.Namespace
	kind  linux.SockType
	queue waiter.Queue

	// port and groups are the bus's to guard.
	port, groups uint32

	mu       sync.Mutex
	messages []*message
	held     int
	// lost is set when a message found no room: the next receive says ENOBUFS.
	lost      bool
	noENOBUFS bool
	passCred  bool
	receive   int
	send      int
	filter    *bpf.Program
	// peer is where a message without an address goes.
	peer linux.SockAddrNetlink
}

var (
	_ socket.Socket          = (*Socket)(nil)
	_ transport.Credentialer = (*Socket)(nil)
)

// New makes a socket on the bus.
func New(t *kernel.Task, b *Bus, kind linux.SockType) (*vfs.FileDescription, *syserr.Error) {
	if kind != linux.SOCK_DGRAM && kind != linux.SOCK_RAW {
		return nil, syserr.ErrSocketNotSupported
	}
	s := &Socket{bus: b, netns: t.GetNetworkNamespace(), kind: kind, receive: defaultBuffer, send: defaultBuffer}
	s.LockFD.Init(&vfs.FileLocks{})
	mnt := t.Kernel().SocketMount()
	d := sockfs.NewDentry(t, mnt)
	defer d.DecRef(t)
	if err := s.vfsfd.Init(s, linux.O_RDWR, t.Credentials(), mnt, d, &vfs.FileDescriptionOptions{
		DenyPRead:         true,
		DenyPWrite:        true,
		UseDentryMetadata: true,
		SpecialFile:       true,
	}); err != nil {
		s.netns.DecRef(t)
		return nil, syserr.FromError(err)
	}
	b.add(s)
	t.Kernel().RecordSocket(&s.vfsfd)
	return &s.vfsfd, nil
}

// Release implements vfs.FileDescriptionImpl.Release.
func (s *Socket) Release(ctx context.Context) {
	s.bus.remove(s)
	kernel.KernelFromContext(ctx).DeleteSocket(&s.vfsfd)
	s.netns.DecRef(ctx)
}

// deliver takes a message that was sent to a group, if s is in the group. The bus is
// locked.
func (s *Socket) deliver(m *message) {
	if s.groups&m.groups == 0 || s.push(m) {
		return
	}
	s.mu.Lock()
	s.lost = !s.noENOBUFS
	s.mu.Unlock()
	s.queue.Notify(waiter.ReadableEvents | waiter.EventErr)
}

// push puts a message that the filter lets through into the queue. It says false when
// there is no room.
func (s *Socket) push(m *message) bool {
	s.mu.Lock()
	if s.filter != nil {
		n, err := bpf.Exec[bpf.BigEndian](*s.filter, bpf.Input(m.data))
		if err != nil || n == 0 {
			s.mu.Unlock()
			return true
		}
		if int(n) < len(m.data) {
			short := *m
			short.data = m.data[:n]
			m = &short
		}
	}
	if s.held+len(m.data)+overhead > s.receive {
		s.mu.Unlock()
		return false
	}
	s.messages = append(s.messages, m)
	s.held += len(m.data) + overhead
	s.mu.Unlock()
	s.queue.Notify(waiter.ReadableEvents)
	return true
}

// pop takes the next message, or only looks at it.
func (s *Socket) pop(peek bool) (*message, *syserr.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		s.lost = false
		return nil, syserr.ErrNoBufferSpace
	}
	if len(s.messages) == 0 {
		return nil, syserr.ErrWouldBlock
	}
	m := s.messages[0]
	if !peek {
		s.messages[0] = nil
		s.messages = s.messages[1:]
		s.held -= len(m.data) + overhead
	}
	return m, nil
}

// Passcred implements transport.Credentialer.Passcred.
func (s *Socket) Passcred() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passCred
}

// ConnectedPasscred implements transport.Credentialer.ConnectedPasscred. Nobody asks
// a peer of netlink's.
func (*Socket) ConnectedPasscred() bool { return false }

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (*Socket) Epollable() bool { return true }

// Readiness implements waiter.Waitable.Readiness.
func (s *Socket) Readiness(mask waiter.EventMask) waiter.EventMask {
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := waiter.WritableEvents
	if len(s.messages) > 0 {
		ready |= waiter.ReadableEvents
	}
	if s.lost {
		ready |= waiter.EventErr | waiter.ReadableEvents
	}
	return ready & mask
}

// EventRegister implements waiter.Waitable.EventRegister.
func (s *Socket) EventRegister(e *waiter.Entry) error {
	s.queue.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (s *Socket) EventUnregister(e *waiter.Entry) { s.queue.EventUnregister(e) }

// Ioctl implements vfs.FileDescriptionImpl.Ioctl.
func (s *Socket) Ioctl(ctx context.Context, uio usermem.IO, _ uintptr, args arch.SyscallArguments) (uintptr, error) {
	if args[1].Uint() != linux.FIONREAD {
		return 0, linuxerr.ENOTTY
	}
	s.mu.Lock()
	var n primitive.Int32
	if len(s.messages) > 0 {
		n = primitive.Int32(len(s.messages[0].data))
	}
	s.mu.Unlock()
	_, err := n.CopyOut(&usermem.IOCopyContext{Ctx: ctx, IO: uio}, args[2].Pointer())
	return 0, err
}

// Read implements vfs.FileDescriptionImpl.Read.
func (s *Socket) Read(ctx context.Context, dst usermem.IOSequence, _ vfs.ReadOptions) (int64, error) {
	m, err := s.pop(false)
	if err != nil {
		return 0, err.ToError()
	}
	n, copyErr := dst.CopyOut(ctx, m.data)
	return int64(n), ignoreShort(copyErr, n, len(m.data), dst.NumBytes())
}

// ignoreShort forgives that a message is longer than what it was read into.
func ignoreShort(err error, n, length int, room int64) error {
	if int64(n) == room && n <= length {
		return nil
	}
	return err
}

// Write implements vfs.FileDescriptionImpl.Write.
func (s *Socket) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	t := kernel.TaskFromContext(ctx)
	if t == nil {
		return 0, linuxerr.EINVAL
	}
	n, err := s.SendMsg(t, src, nil, 0, false, ktime.Time{}, socket.ControlMessages{})
	return int64(n), err.ToError()
}

// admin says whether the task may join and send as it likes.
func (s *Socket) admin(t *kernel.Task) bool { return s.netns.HasCapability(t, linux.CAP_NET_ADMIN) }

// Bind implements socket.Socket.Bind. Everyone may listen.
func (s *Socket) Bind(t *kernel.Task, sockaddr []byte) *syserr.Error {
	a, err := netlink.ExtractSockAddr(sockaddr)
	if err != nil {
		return err
	}
	if err := s.bus.bind(s, a.PortID, uint32(t.ThreadGroup().ID())); err != nil {
		return err
	}
	s.bus.join(s, func(uint32) uint32 { return a.Groups })
	return nil
}

// Connect implements socket.Socket.Connect.
func (s *Socket) Connect(t *kernel.Task, sockaddr []byte, _ bool) *syserr.Error {
	a, err := netlink.ExtractSockAddr(sockaddr)
	if err != nil {
		return err
	}
	if (a.Groups != 0 || a.PortID != 0) && !s.admin(t) {
		return syserr.ErrNotPermitted
	}
	if err := s.bus.bind(s, 0, uint32(t.ThreadGroup().ID())); err != nil {
		return err
	}
	s.mu.Lock()
	s.peer = *a
	s.mu.Unlock()
	return nil
}

// Accept implements socket.Socket.Accept.
func (*Socket) Accept(*kernel.Task, bool, int, bool) (int32, linux.SockAddr, uint32, *syserr.Error) {
	return 0, nil, 0, syserr.ErrNotSupported
}

// Listen implements socket.Socket.Listen.
func (*Socket) Listen(*kernel.Task, int) *syserr.Error { return syserr.ErrNotSupported }

// Shutdown implements socket.Socket.Shutdown.
func (*Socket) Shutdown(*kernel.Task, int) *syserr.Error { return syserr.ErrNotSupported }

// GetSockName implements socket.Socket.GetSockName.
func (s *Socket) GetSockName(*kernel.Task) (linux.SockAddr, uint32, *syserr.Error) {
	port, groups := s.bus.where(s)
	return &linux.SockAddrNetlink{Family: linux.AF_NETLINK, PortID: port, Groups: groups}, linux.SockAddrNetlinkSize, nil
}

// GetPeerName implements socket.Socket.GetPeerName.
func (s *Socket) GetPeerName(*kernel.Task) (linux.SockAddr, uint32, *syserr.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.peer
	a.Family = linux.AF_NETLINK
	return &a, linux.SockAddrNetlinkSize, nil
}

// State implements socket.Socket.State.
func (*Socket) State() uint32 { return 0 }

// Type implements socket.Socket.Type.
func (s *Socket) Type() (int, linux.SockType, int) {
	return linux.AF_NETLINK, s.kind, linux.NETLINK_KOBJECT_UEVENT
}

// SendMsg implements socket.Socket.SendMsg. What is sent to the kernel is lost: it
// takes no uevents from programs.
func (s *Socket) SendMsg(t *kernel.Task, src usermem.IOSequence, to []byte, _ int, _ bool, _ ktime.Time, _ socket.ControlMessages) (int, *syserr.Error) {
	s.mu.Lock()
	a, limit := s.peer, s.send
	s.mu.Unlock()
	if len(to) != 0 {
		given, err := netlink.ExtractSockAddr(to)
		if err != nil {
			return 0, err
		}
		if a = *given; (a.Groups != 0 || a.PortID != 0) && !s.admin(t) {
			return 0, syserr.ErrNotPermitted
		}
	}
	if src.NumBytes() > int64(limit-32) {
		return 0, syserr.ErrMessageTooLong
	}
	if err := s.bus.bind(s, 0, uint32(t.ThreadGroup().ID())); err != nil {
		return 0, err
	}
	data := make([]byte, src.NumBytes())
	if n, err := src.CopyIn(t, data); err != nil && (err != io.EOF || n != len(data)) {
		return 0, syserr.FromError(err)
	}
	port, _ := s.bus.where(s)
	m := message{data: data, port: port, creds: control.MakeCreds(t)}
	if a.Groups != 0 {
		all := m
		// A message goes to one group.
		all.groups = 1 << bits.TrailingZeros32(a.Groups)
		s.bus.multicast(s, &all)
	}
	if a.PortID != 0 {
		if err := s.bus.unicast(s, a.PortID, &m); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// RecvMsg implements socket.Socket.RecvMsg.
func (s *Socket) RecvMsg(t *kernel.Task, dst usermem.IOSequence, flags int, haveDeadline bool, deadline ktime.Time, _ bool, _ uint64) (int, int, linux.SockAddr, uint32, socket.ControlMessages, *syserr.Error) {
	none := socket.ControlMessages{}
	peek := flags&linux.MSG_PEEK != 0
	m, err := s.pop(peek)
	if err == syserr.ErrWouldBlock && flags&linux.MSG_DONTWAIT == 0 {
		e, ch := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
		s.queue.EventRegister(&e)
		defer s.queue.EventUnregister(&e)
		for {
			if m, err = s.pop(peek); err != syserr.ErrWouldBlock {
				break
			}
			if err := t.BlockWithDeadline(ch, haveDeadline, deadline); err != nil {
				if linuxerr.Equals(linuxerr.ETIMEDOUT, err) {
					return 0, 0, nil, 0, none, syserr.ErrTryAgain
				}
				return 0, 0, nil, 0, none, syserr.FromError(err)
			}
		}
	}
	if err != nil {
		return 0, 0, nil, 0, none, err
	}
	n, copyErr := dst.CopyOut(t, m.data)
	if copyErr := ignoreShort(copyErr, n, len(m.data), dst.NumBytes()); copyErr != nil {
		return 0, 0, nil, 0, none, syserr.FromError(copyErr)
	}
	var out int
	if n < len(m.data) {
		out = linux.MSG_TRUNC
		if flags&linux.MSG_TRUNC != 0 {
			n = len(m.data)
		}
	}
	messages := socket.ControlMessages{Unix: transport.ControlMessages{Credentials: m.creds}}
	from := &linux.SockAddrNetlink{Family: linux.AF_NETLINK, PortID: m.port, Groups: m.groups}
	return n, out, from, linux.SockAddrNetlinkSize, messages, nil
}
