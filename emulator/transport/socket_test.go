package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// sockets are the two ends of a device over an inherited socket: one is the device's.
func sockets(t *testing.T, kind int, options string) (netdev.Device, int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	s, err := Parse(fmt.Sprintf("transport=fd,fd=%d%s", pair[0], options))
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Open()
	unix.Close(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, pair[1]
}

// room is room for frames of at most 100 bytes, in two pieces.
func room(n int) []netdev.Frame {
	frames := make([]netdev.Frame, n)
	for i := range frames {
		frames[i].Pieces = [][]byte{make([]byte, 30), make([]byte, 70)}
	}
	return frames
}

func TestSocket(t *testing.T) {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		d, peer := sockets(t, kind, ",depth=4")
		frames := room(8)
		if n, err := d.Read(frames); n != 0 || err != nil {
			t.Fatalf("nothing is there: %d, %v", n, err)
		}
		sent := [][]byte{bytes.Repeat([]byte{1}, 14), bytes.Repeat([]byte{2}, 101), bytes.Repeat([]byte{3}, 100), bytes.Repeat([]byte{4}, 31), bytes.Repeat([]byte{5}, 20)}
		for _, b := range sent {
			if _, err := unix.Write(peer, b); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Wait(); err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for _, want := range []int{3, 1} { // of four datagrams one is too long
			n, err := d.Read(frames)
			if n != want || err != nil {
				t.Fatalf("Read = %d, %v; want %d", n, err, want)
			}
			for _, f := range frames[:n] {
				got = append(got, bytes.Clone(bytes.Join(f.Pieces, nil)[:f.Size]))
			}
		}
		for i, want := range [][]byte{sent[0], sent[2], sent[3], sent[4]} {
			if !bytes.Equal(got[i], want) {
				t.Errorf("frame %d is %x; want %x", i, got[i], want)
			}
		}
		if n := d.Counters().ReceiveDropped.Load(); n != 1 {
			t.Errorf("%d frames are counted as too long; want 1", n)
		}
		var out []netdev.Frame
		for i := range 9 {
			f := netdev.Frame{Pieces: [][]byte{{byte(i)}, bytes.Repeat([]byte{7}, i)}, Size: i + 1}
			if i == 5 {
				f.Pieces = nil
				for range 100 { // more than one system call takes
					f.Pieces = append(f.Pieces, []byte{5})
				}
			}
			out = append(out, f)
		}
		if n, err := d.Write(out); n != 9 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		b := make([]byte, 200)
		for i, f := range out {
			n, err := unix.Read(peer, b)
			if want := bytes.Join(f.Pieces, nil); err != nil || !bytes.Equal(b[:n], want) {
				t.Errorf("frame %d arrives as %x, %v; want %x", i, b[:n], err, want)
			}
		}
	}
}

// TestSocketFull holds that a peer that takes nothing costs frames and no more than a
// moment, and that frames go again when it does.
func TestSocketFull(t *testing.T) {
	d, peer := sockets(t, unix.SOCK_SEQPACKET, "")
	frame := []netdev.Frame{{Pieces: [][]byte{make([]byte, 1000)}, Size: 1000}}
	sent := 0
	for range 5000 {
		n, err := d.Write(frame)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if dropped := d.Counters().SendDropped.Load(); sent == 0 || dropped == 0 || sent+int(dropped) != 5000 {
		t.Errorf("%d frames were sent and %d dropped of 5000", sent, dropped)
	}
	b := make([]byte, 2000)
	for range sent {
		if _, err := unix.Read(peer, b); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := d.Write(frame); n != 1 || err != nil {
		t.Errorf("after the peer read all: %d, %v", n, err)
	}
}

// TestSocketEnds holds the two ends of a device: Close, which wakes who waits, and a peer
// that is gone.
func TestSocketEnds(t *testing.T) {
	d, _ := sockets(t, unix.SOCK_DGRAM, "")
	woken := make(chan error, 1)
	go func() { woken <- d.Wait() }()
	time.Sleep(10 * time.Millisecond)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait ends with %v; want os.ErrClosed", err)
	}
	if _, err := d.Read(room(1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read says %v; want os.ErrClosed", err)
	}
	if _, err := d.Write([]netdev.Frame{{Pieces: [][]byte{{1}}, Size: 1}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write says %v; want os.ErrClosed", err)
	}
	d, peer := sockets(t, unix.SOCK_SEQPACKET, "")
	if _, err := unix.Write(peer, []byte("the last one")); err != nil {
		t.Fatal(err)
	}
	unix.Shutdown(peer, unix.SHUT_RDWR)
	if n, err := d.Read(room(4)); n != 1 || err != nil {
		t.Errorf("before the end: %d, %v; want 1", n, err)
	}
	if _, err := d.Read(room(4)); err != io.EOF {
		t.Errorf("at the end: %v; want io.EOF", err)
	}
}

// TestFD holds which descriptors are no device, each in one line.
func TestFD(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stream, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stream[0])
	defer unix.Close(stream[1])
	for fd, why := range map[int]string{int(file.Fd()): "neither a socket nor a tap", stream[0]: "does not keep packets apart", 1 << 19: "not an open descriptor"} {
		s, err := Parse(fmt.Sprintf("transport=fd,fd=%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(); err == nil || !bytes.Contains([]byte(err.Error()), []byte(why)) {
			t.Errorf("fd=%d: %v; want %q", fd, err, why)
		}
	}
}
