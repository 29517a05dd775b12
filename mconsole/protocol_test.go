package mconsole

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// little tells whether golden bytes, which are of little-endian hosts, are this one's.
func little(t *testing.T) bool {
	t.Helper()
	return binary.NativeEndian.Uint16([]byte{1, 0}) == 1
}

func TestRequestGolden(t *testing.T) {
	b, err := EncodeRequest("version")
	if err != nil {
		t.Fatal(err)
	}
	// As Debian's uml_mconsole sends it.
	if got := hex.EncodeToString(b[:20]); little(t) && got != "bebafeca"+"02000000"+"07000000"+hex.EncodeToString([]byte("version\x00")) {
		t.Errorf("the packet is %s", got)
	}
	if len(b) != 524 {
		t.Errorf("the packet has %d bytes", len(b))
	}
	for _, command := range []string{"", "version", strings.Repeat("x", 511)} {
		b, err := EncodeRequest(command)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeRequest(b); err != nil || got != command {
			t.Errorf("%q came back as %q, %v", command, got, err)
		}
	}
	if _, err := EncodeRequest(strings.Repeat("x", 512)); err == nil {
		t.Error("a command too long was encoded")
	}
	// A client that counts the NUL.
	counted := bytes.Clone(b)
	binary.NativeEndian.PutUint32(counted[8:], 8)
	if got, err := DecodeRequest(counted); err != nil || got != "version" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReplyGolden(t *testing.T) {
	b, err := Reply{Data: []byte("r.img")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// As a real kernel sends it.
	if got := string(b); little(t) && got != "\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00r.img\x00" {
		t.Errorf("the packet is %q", got)
	}
}

func TestReplies(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 1022, 1023, 5000} {
		text := bytes.Repeat([]byte("x"), n)
		var got []byte
		replies := Replies(-19, text)
		for i, r := range replies {
			b, err := r.Encode()
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeReply(b)
			if err != nil || back.Err != -19 || back.More != (i < len(replies)-1) {
				t.Fatalf("packet %d of %d bytes: %+v, %v", i, n, back, err)
			}
			got = append(got, back.Data...)
		}
		if !bytes.Equal(got, text) {
			t.Errorf("%d bytes came back as %d", n, len(got))
		}
	}
}

func TestNotification(t *testing.T) {
	for _, test := range []struct {
		Notification
		data string // as a real kernel sends it
	}{
		{Notification{NotifySocket, []byte("/root/.uml/x/mconsole")}, "/root/.uml/x/mconsole\x00"},
		{Notification{NotifyPanic, []byte("sysrq triggered crash")}, "sysrq triggered crash\x00"},
		{Notification{NotifyHang, []byte{}}, "\x00"},
		{Notification{NotifyUser, []byte("hi\n")}, "hi\n"},
		{Notification{NotifyUser, []byte("\x00")}, "\x00"},
	} {
		n, b := test.Notification, test.Encode()
		if got := string(b[notifyHeader:]); got != test.data || binary.NativeEndian.Uint32(b[12:]) != uint32(len(test.data)) {
			t.Errorf("%+v: %q behind a header that says %d", n, got, b[12:16])
		}
		if got, err := DecodeNotification(b); err != nil || !reflect.DeepEqual(got, n) {
			t.Errorf("%+v came back as %+v, %v", n, got, err)
		}
	}
	for kind, want := range map[NotificationType]int{NotifyPanic: 511, NotifyUser: 512} {
		long := Notification{kind, bytes.Repeat([]byte("x"), 600)}
		if got, err := DecodeNotification(long.Encode()); err != nil || len(got.Data) != want {
			t.Errorf("a long one has %d bytes, %v", len(got.Data), err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	request, err := EncodeRequest("version")
	if err != nil {
		t.Fatal(err)
	}
	reply, err := Reply{Data: []byte("text")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	notification := Notification{NotifyPanic, []byte("text")}.Encode()
	put := func(b []byte, off int, v uint32) []byte {
		b = bytes.Clone(b)
		binary.NativeEndian.PutUint32(b[off:], v)
		return b
	}
	for _, test := range []struct {
		packet, field string
		value         int64
		b             []byte
	}{
		{"request", "packet length", 0, nil},
		{"request", "packet length", 11, request[:11]},
		{"request", "magic", int64(binary.NativeEndian.Uint32([]byte("vers"))), []byte("version\x00")},
		{"request", "version", 3, put(request, 4, 3)},
		{"request", "len", 512, put(request, 8, 512)},
		{"request", "len", 1<<32 - 1, put(request, 8, 1<<32-1)},
		{"request", "len", 7, request[:18]},
		{"reply", "packet length", 11, reply[:11]},
		{"reply", "len", 5, reply[:16]},
		{"reply", "len", -1, put(reply, 8, 1<<32-1)},
		{"reply", "len", 513, put(append(bytes.Clone(reply), make([]byte, 600)...), 8, 513)},
		{"notification", "packet length", 15, notification[:15]},
		{"notification", "magic", 1, put(notification, 0, 1)},
		{"notification", "version", 1, put(notification, 4, 1)},
		{"notification", "len", 513, put(notification, 12, 513)},
		{"notification", "len", 5, notification[:20]},
	} {
		var err error
		switch test.packet {
		case "request":
			_, err = DecodeRequest(test.b)
		case "reply":
			_, err = DecodeReply(test.b)
		case "notification":
			_, err = DecodeNotification(test.b)
		}
		var e *ProtocolError
		if !errors.As(err, &e) || e.Packet != test.packet || e.Field != test.field || e.Value != test.value {
			t.Errorf("got %v, want %s of a %s, %d", err, test.field, test.packet, test.value)
		}
	}
}

func FuzzDecodeReply(f *testing.F) {
	for _, r := range []Reply{{Data: []byte("r.img")}, {Err: 1, Data: []byte("Unknown command")}, {Err: -16, More: true}} {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReply(b)
		if err != nil || len(r.Data) == MaxData { // without a NUL there is room for one more
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeReply(again); err != nil || back.Err != r.Err || back.More != r.More || !bytes.Equal(back.Data, r.Data) {
			t.Errorf("%+v came back as %+v, %v", r, back, err)
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	b, err := EncodeRequest("config ubd1=cow,img")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("version"))
	f.Fuzz(func(t *testing.T, b []byte) {
		command, err := DecodeRequest(b)
		if err != nil {
			return
		}
		again, err := EncodeRequest(command)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeRequest(again); err != nil || back != command {
			t.Errorf("%q came back as %q, %v", command, back, err)
		}
	})
}

func FuzzDecodeNotification(f *testing.F) {
	f.Add(Notification{NotifyPanic, []byte("oops")}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := DecodeNotification(b)
		if err == nil && len(n.Data) > MaxData {
			t.Errorf("%d bytes of data", len(n.Data))
		}
	})
}
