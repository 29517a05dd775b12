// Package uevent is how a kernel tells programs of its devices: netlink sockets of the
// protocol NETLINK_KOBJECT_UEVENT. What the kernel says goes to group 1; udevd answers
// to group 2, which systemd and others listen to, and to its workers by their ports.
//
// The form of messages is that of Linux: "ACTION@DEVPATH" and then KEY=VALUE, each
// ended by a zero byte.
package uevent

import (
	"fmt"
	"strings"
	"sync"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/socket/control"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/syserr"
)

// Event is what happened to a device.
type Event struct {
	// Action is "add", "remove", "change" and so on.
	Action string
	// Path is the device's path below /sys, with a slash before it.
	Path string
	// Subsystem is the name of its class or bus.
	Subsystem string
	// Env are the device's own variables, KEY=VALUE.
	Env []string
}

// actions are those that a program may ask a device to announce.
var actions = map[string]bool{
	"add": true, "remove": true, "change": true, "move": true,
	"online": true, "offline": true, "bind": true, "unbind": true,
}

// maxSynthetic bounds what a program writes to a device's uevent file.
const maxSynthetic = 2048

// Synthetic is the event that a program asks for by writing text to the uevent file of
// e's device: an action, perhaps a UUID, and KEY=VALUE words. It says false of what
// Linux refuses too.
func (e Event) Synthetic(text string) (Event, bool) {
	if len(text) > maxSynthetic {
		return Event{}, false
	}
	words := strings.Fields(text)
	if len(words) == 0 || !actions[words[0]] {
		return Event{}, false
	}
	e.Action = words[0]
	uuid := "0"
	env := append([]string(nil), e.Env...)
	if len(words) > 1 {
		if uuid = words[1]; !isUUID(uuid) {
			return Event{}, false
		}
		for _, word := range words[2:] {
			key, value, ok := strings.Cut(word, "=")
			if !ok || !alphanumeric(key) || !alphanumeric(value) {
				return Event{}, false
			}
			env = append(env, "SYNTH_ARG_"+word)
		}
	}
	e.Env = append(env, "SYNTH_UUID="+uuid)
	return e, true
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return false
		}
	}
	return true
}

func alphanumeric(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}

// encode is the event as a message.
func (e Event) encode(number uint64) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s\x00ACTION=%[1]s\x00DEVPATH=%s\x00SUBSYSTEM=%s\x00", e.Action, e.Path, e.Subsystem)
	for _, v := range e.Env {
		b.WriteString(v)
		b.WriteByte(0)
	}
	fmt.Fprintf(&b, "SEQNUM=%d\x00", number)
	return []byte(b.String())
}

// groupKernel is the bit of the group that the kernel speaks to.
const groupKernel = 1

// Bus is the set of sockets of one kernel. Its methods may be called by any number of
// goroutines at once and do not wait.
type Bus struct {
	mu      sync.Mutex
	number  uint64
	sockets map[*Socket]struct{}
	ports   map[address]*Socket
}

// address is where a socket is reached.
type address struct {
	netns *inet.Namespace
	port  uint32
}

// NewBus makes a bus without sockets.
func NewBus() *Bus {
	return &Bus{sockets: make(map[*Socket]struct{}), ports: make(map[address]*Socket)}
}

// Number is how many events there were: /sys/kernel/uevent_seqnum.
func (b *Bus) Number() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.number
}

// Send announces an event in all network namespaces of the first user namespace.
func (b *Bus) Send(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.number++
	m := &message{data: e.encode(b.number), groups: groupKernel, creds: kernelCreds{}}
	for s := range b.sockets {
		if s.netns.UserNamespace().Root() == s.netns.UserNamespace() {
			s.deliver(m)
		}
	}
}

// multicast sends m to the sockets of from's namespace that are in its group.
func (b *Bus) multicast(from *Socket, m *message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.sockets {
		if s != from && s.netns == from.netns {
			s.deliver(m)
		}
	}
}

// unicast sends m to a port of from's namespace.
func (b *Bus) unicast(from *Socket, port uint32, m *message) *syserr.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	to := b.ports[address{from.netns, port}]
	if to == nil {
		return syserr.ErrConnectionRefused
	}
	if !to.push(m) {
		return syserr.ErrTryAgain
	}
	return nil
}

// bind gives s a port: the asked one, or, for 0, the process's number or else a high
// one that is free.
func (b *Bus) bind(s *Socket, port, process uint32) *syserr.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.port != 0 {
		if port != 0 && port != s.port {
			return syserr.ErrInvalidArgument
		}
		return nil
	}
	if port != 0 {
		if b.ports[address{s.netns, port}] != nil {
			return syserr.ErrAddressInUse
		}
	} else {
		for port = process; b.ports[address{s.netns, port}] != nil; port-- {
			if port == process {
				port = 1<<32 - 4096
			}
		}
	}
	s.port = port
	b.ports[address{s.netns, port}] = s
	return nil
}

// join changes the groups of s.
func (b *Bus) join(s *Socket, change func(groups uint32) uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.groups = change(s.groups)
}

// where is the port and the groups of s.
func (b *Bus) where(s *Socket) (port, groups uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.port, s.groups
}

func (b *Bus) add(s *Socket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sockets[s] = struct{}{}
}

func (b *Bus) remove(s *Socket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sockets, s)
	if s.port != 0 {
		delete(b.ports, address{s.netns, s.port})
	}
}

// message is one datagram.
type message struct {
	data []byte
	// port is the sender's, 0 the kernel; groups is the group it was sent to, as a
	// bit, or 0.
	port, groups uint32
	creds        control.SCMCredentials
}

// kernelCreds are the credentials of what the kernel says.
type kernelCreds struct{}

// Equals implements transport.CredentialsControlMessage.
func (kernelCreds) Equals(other transport.CredentialsControlMessage) bool {
	_, ok := other.(kernelCreds)
	return ok
}

// Credentials implements control.SCMCredentials.
func (kernelCreds) Credentials(*kernel.Task) (kernel.ThreadID, auth.UID, auth.GID) {
	return 0, auth.RootUID, auth.RootGID
}
