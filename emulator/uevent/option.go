package uevent

import (
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/marshal"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/syserr"
)

// fprogBytes is the size of struct sock_fprog: a count, padding, and a pointer.
const fprogBytes = 16

// GetPeerCreds implements socket.Socket.GetPeerCreds.
func (*Socket) GetPeerCreds(*kernel.Task) (marshal.Marshallable, *syserr.Error) {
	return nil, syserr.ErrNotSupported
}

// GetSockOpt implements socket.Socket.GetSockOpt.
func (s *Socket) GetSockOpt(_ *kernel.Task, level, name int, _ hostarch.Addr, _ int) (marshal.Marshallable, *syserr.Error) {
	_, groups := s.bus.where(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	number := func(n int) (marshal.Marshallable, *syserr.Error) { return primitive.AllocateInt32(int32(n)), nil }
	truth := func(b bool) (marshal.Marshallable, *syserr.Error) {
		if b {
			return number(1)
		}
		return number(0)
	}
	switch level {
	case linux.SOL_SOCKET:
		switch name {
		case linux.SO_SNDBUF:
			return number(s.send)
		case linux.SO_RCVBUF:
			return number(s.receive)
		case linux.SO_PASSCRED:
			return truth(s.passCred)
		case linux.SO_ERROR:
			lost := s.lost
			s.lost = false
			if lost {
				return number(int(unix.ENOBUFS))
			}
			return number(0)
		case linux.SO_SNDTIMEO:
			v := linux.NsecToTimeval(s.SendTimeout())
			return &v, nil
		case linux.SO_RCVTIMEO:
			v := linux.NsecToTimeval(s.RecvTimeout())
			return &v, nil
		}
	case linux.SOL_NETLINK:
		switch name {
		case linux.NETLINK_LIST_MEMBERSHIPS:
			return primitive.AllocateUint32(groups), nil
		case linux.NETLINK_NO_ENOBUFS:
			return truth(s.noENOBUFS)
		}
	}
	return nil, syserr.ErrProtocolNotAvailable
}

// SetSockOpt implements socket.Socket.SetSockOpt.
func (s *Socket) SetSockOpt(t *kernel.Task, level, name int, opt []byte) *syserr.Error {
	if level == linux.SOL_SOCKET {
		switch name {
		case linux.SO_ATTACH_FILTER:
			return s.attach(t, opt)
		case linux.SO_DETACH_FILTER:
			return s.detach()
		case linux.SO_SNDTIMEO, linux.SO_RCVTIMEO:
			return s.setTimeout(name, opt)
		}
	}
	if len(opt) < 4 {
		return syserr.ErrInvalidArgument
	}
	n := int32(hostarch.ByteOrder.Uint32(opt))
	switch level {
	case linux.SOL_SOCKET:
		return s.setNumber(name, n)
	case linux.SOL_NETLINK:
		return s.setNetlink(name, n)
	}
	return syserr.ErrProtocolNotAvailable
}

func (s *Socket) setNumber(name int, n int32) *syserr.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Linux doubles what is asked for, to count its own use of memory.
	room := min(max(int(n), 1152), maxBuffer/2) * 2
	switch name {
	case linux.SO_SNDBUF:
		s.send = room
	case linux.SO_RCVBUF:
		s.receive = room
	case linux.SO_PASSCRED:
		s.passCred = n != 0
	case linux.SO_REUSEADDR:
		// Ports of netlink are never shared: it changes nothing on Linux either.
	default:
		return syserr.ErrProtocolNotAvailable
	}
	return nil
}

func (s *Socket) setNetlink(name int, n int32) *syserr.Error {
	switch name {
	case linux.NETLINK_ADD_MEMBERSHIP, linux.NETLINK_DROP_MEMBERSHIP:
		if n < 1 || n > 32 {
			return syserr.ErrInvalidArgument
		}
		bit := uint32(1) << (n - 1)
		s.bus.join(s, func(groups uint32) uint32 {
			if name == linux.NETLINK_ADD_MEMBERSHIP {
				return groups | bit
			}
			return groups &^ bit
		})
		return nil
	case linux.NETLINK_NO_ENOBUFS:
		s.mu.Lock()
		s.noENOBUFS = n != 0
		s.lost = s.lost && !s.noENOBUFS
		s.mu.Unlock()
		return nil
	}
	return syserr.ErrProtocolNotAvailable
}

func (s *Socket) setTimeout(name int, opt []byte) *syserr.Error {
	if len(opt) < linux.SizeOfTimeval {
		return syserr.ErrInvalidArgument
	}
	var v linux.Timeval
	v.UnmarshalBytes(opt)
	if v.Usec < 0 || v.Usec >= 1e6 {
		return syserr.ErrDomain
	}
	if name == linux.SO_SNDTIMEO {
		s.SetSendTimeout(v.ToNsecCapped())
	} else {
		s.SetRecvTimeout(v.ToNsecCapped())
	}
	return nil
}

// attach takes a filter: a classic BPF program over the message's bytes.
func (s *Socket) attach(t *kernel.Task, opt []byte) *syserr.Error {
	if len(opt) < fprogBytes {
		return syserr.ErrInvalidArgument
	}
	count := int(hostarch.ByteOrder.Uint16(opt))
	if count == 0 || count > bpf.MaxInstructions {
		return syserr.ErrInvalidArgument
	}
	code := make([]linux.BPFInstruction, count)
	if _, err := linux.CopyBPFInstructionSliceIn(t, hostarch.Addr(hostarch.ByteOrder.Uint64(opt[8:])), code); err != nil {
		return syserr.FromError(err)
	}
	instructions := make([]bpf.Instruction, count)
	for i, c := range code {
		instructions[i] = bpf.Instruction(c)
	}
	program, err := bpf.Compile(instructions, true)
	if err != nil {
		return syserr.ErrInvalidArgument
	}
	s.mu.Lock()
	s.filter = &program
	s.mu.Unlock()
	return nil
}

func (s *Socket) detach() *syserr.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filter == nil {
		return syserr.ErrNoFileOrDir
	}
	s.filter = nil
	return nil
}
