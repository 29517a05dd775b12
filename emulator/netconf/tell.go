package netconf

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// Tell tells who listens on RTNLGRP_LINK of an interface that came or changed.
func Tell(ctx context.Context, n *inet.Namespace, s *netstack.Stack, id tcpip.NICID) {
	if info, ok := s.Stack.SingleNICInfo(id); ok {
		n.NetlinkMcastTable().OnInterfaceChangeEvent(ctx, int32(id), interfaceOf(s, info))
	}
}

// TellGone tells of one that went.
func TellGone(ctx context.Context, n *inet.Namespace, id tcpip.NICID, name string) {
	n.NetlinkMcastTable().OnInterfaceDeleteEvent(ctx, int32(id), inet.Interface{Name: name, DeviceType: 1})
}

// errnoError is an errno as the Sentry passes errors about.
func errnoError(errno unix.Errno) error { return linuxerr.ErrorFromUnix(errno) }

func nativeUint64(b []byte, v uint64) []byte { return binary.NativeEndian.AppendUint64(b, v) }

func nativeUint32(b []byte, v uint32) []byte { return binary.NativeEndian.AppendUint32(b, v) }
