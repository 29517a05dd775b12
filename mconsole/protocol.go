// Package mconsole is the protocol of the management console: what a client and a
// machine say to each other over a Unix datagram socket. A request is one packet with
// a command; its reply is one packet or several, of which all but the last announce
// more. A machine also sends notifications to a socket that it was told of.
//
// The functions here turn messages into bytes and back; Client is the one side of the
// talk. Integers are in the host's byte order, as both ends live on one host.
package mconsole

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	// Magic begins a request and a notification.
	Magic = 0xcafebabe
	// Version is the protocol's version.
	Version = 2
	// MaxData is the room for a message's text in bytes, a NUL at its end included.
	MaxData = 512

	requestHeader = 12
	replyHeader   = 12
	notifyHeader  = 16

	// MaxPacket is the length of the longest packet, a notification's.
	MaxPacket = notifyHeader + MaxData
)

// ProtocolError says which field of a packet makes no sense.
type ProtocolError struct {
	Packet string // "request", "reply" or "notification"
	Field  string
	Value  int64
}

// Error is one line that names the field and its value.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("mconsole %s: bad %s %d", e.Packet, e.Field, e.Value)
}

// EncodeRequest returns the packet for a command. It fails for one of MaxData bytes or
// more.
func EncodeRequest(command string) ([]byte, error) {
	if len(command) >= MaxData {
		return nil, fmt.Errorf("the command has %d bytes; a request takes %d", len(command), MaxData-1)
	}
	// The packet has the data's full length, as clients have always sent it.
	b := make([]byte, requestHeader+MaxData)
	ne := binary.NativeEndian
	ne.PutUint32(b, Magic)
	ne.PutUint32(b[4:], Version)
	ne.PutUint32(b[8:], uint32(len(command)))
	copy(b[requestHeader:], command)
	return b, nil
}

// DecodeRequest returns the command of a request. Its errors are *ProtocolError; one for
// the field "magic" may be the text of a client older than the protocol's versions.
func DecodeRequest(b []byte) (command string, err error) {
	bad := func(field string, value int64) (string, error) {
		return "", &ProtocolError{Packet: "request", Field: field, Value: value}
	}
	if len(b) < 4 {
		return bad("packet length", int64(len(b)))
	}
	ne := binary.NativeEndian
	if m := ne.Uint32(b); m != Magic {
		return bad("magic", int64(m))
	}
	if len(b) < requestHeader {
		return bad("packet length", int64(len(b)))
	}
	if v := ne.Uint32(b[4:]); v != Version {
		return bad("version", int64(v))
	}
	n := int64(ne.Uint32(b[8:]))
	if n >= MaxData || n > int64(len(b)-requestHeader) {
		return bad("len", n)
	}
	// A client may count the NUL, or leave one within.
	text, _, _ := bytes.Cut(b[requestHeader:requestHeader+n], []byte{0})
	return string(text), nil
}

// Reply is one packet of an answer.
type Reply struct {
	// Err is 0, a negative errno or 1.
	Err int32
	// More says that the answer goes on in another packet.
	More bool
	// Data is text, without the NUL that follows it in the packet.
	Data []byte
}

// Replies cuts an answer into as many packets as it needs, at least one.
func Replies(err int32, text []byte) []Reply {
	var replies []Reply
	for {
		n := min(len(text), MaxData-1)
		r := Reply{Err: err, Data: text[:n], More: n < len(text)}
		replies = append(replies, r)
		if !r.More {
			return replies
		}
		text = text[n:]
	}
}

// Encode returns the packet. Data beyond MaxData-1 bytes is an error.
func (r Reply) Encode() ([]byte, error) {
	if len(r.Data) >= MaxData {
		return nil, fmt.Errorf("the reply has %d bytes; a packet takes %d", len(r.Data), MaxData-1)
	}
	b := make([]byte, replyHeader+len(r.Data)+1)
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(r.Err))
	if r.More {
		ne.PutUint32(b[4:], 1)
	}
	ne.PutUint32(b[8:], uint32(len(r.Data)+1))
	copy(b[replyHeader:], r.Data)
	return b, nil
}

// DecodeReply reads one packet of an answer; its Data is part of b. Its errors are
// *ProtocolError.
func DecodeReply(b []byte) (Reply, error) {
	if len(b) < replyHeader {
		return Reply{}, &ProtocolError{Packet: "reply", Field: "packet length", Value: int64(len(b))}
	}
	ne := binary.NativeEndian
	n := int64(int32(ne.Uint32(b[8:])))
	if n < 0 || n > MaxData || n > int64(len(b)-replyHeader) {
		return Reply{}, &ProtocolError{Packet: "reply", Field: "len", Value: n}
	}
	data := b[replyHeader : replyHeader+n]
	return Reply{
		Err:  int32(ne.Uint32(b)),
		More: ne.Uint32(b[4:]) != 0,
		Data: bytes.TrimSuffix(data, []byte{0}),
	}, nil
}

// NotificationType says what a machine notifies of.
type NotificationType int32

const (
	// NotifySocket carries the path of the machine's console socket, at boot.
	NotifySocket NotificationType = 0
	// NotifyPanic carries the message of a panic.
	NotifyPanic NotificationType = 1
	// NotifyHang says that the machine hangs. No kernel sends it.
	NotifyHang NotificationType = 2
	// NotifyUser carries what the guest wrote to /proc/mconsole.
	NotifyUser NotificationType = 3
)

// Notification is what a machine says unasked.
type Notification struct {
	Type NotificationType
	Data []byte // without the NUL that follows it in the packet
}

// Encode returns the packet. Data beyond MaxData-1 bytes is cut off, as a machine that
// panics cannot do better.
func (n Notification) Encode() []byte {
	data := n.Data[:min(len(n.Data), MaxData-1)]
	// The packet has the data's full length, as kernels send it.
	b := make([]byte, notifyHeader+MaxData)
	ne := binary.NativeEndian
	ne.PutUint32(b, Magic)
	ne.PutUint32(b[4:], Version)
	ne.PutUint32(b[8:], uint32(n.Type))
	ne.PutUint32(b[12:], uint32(len(data)+1))
	copy(b[notifyHeader:], data)
	return b
}

// DecodeNotification reads a notification; its Data is part of b. Its errors are
// *ProtocolError.
func DecodeNotification(b []byte) (Notification, error) {
	bad := func(field string, value int64) (Notification, error) {
		return Notification{}, &ProtocolError{Packet: "notification", Field: field, Value: value}
	}
	if len(b) < notifyHeader {
		return bad("packet length", int64(len(b)))
	}
	ne := binary.NativeEndian
	if m := ne.Uint32(b); m != Magic {
		return bad("magic", int64(m))
	}
	if v := ne.Uint32(b[4:]); v != Version {
		return bad("version", int64(v))
	}
	n := int64(int32(ne.Uint32(b[12:])))
	if n < 0 || n > MaxData || n > int64(len(b)-notifyHeader) {
		return bad("len", n)
	}
	return Notification{
		Type: NotificationType(int32(ne.Uint32(b[8:]))),
		Data: bytes.TrimSuffix(b[notifyHeader:notifyHeader+n], []byte{0}),
	}, nil
}
