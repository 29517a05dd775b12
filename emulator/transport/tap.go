package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// TUN_F_* of linux/if_tun.h: what the host may leave to us.
const (
	tunCsum = 1
	tunTSO4 = 2
	tunTSO6 = 4
)

// openTap attaches to a tap, which a privileged program makes when it is not there.
func openTap(s *Spec) (netdev.Device, error) {
	h, err := attach(s.words["ifname"], s.GRO)
	if err != nil {
		return nil, err
	}
	return newTap(h, s, true), nil
}

// attach opens a tap with virtio_net_hdr before its frames.
func attach(name string, gro bool) (*handle, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	if err := setTap(fd, name, gro); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newHandle(fd, name)
}

// setTap makes fd the tap name.
func setTap(fd int, name string, gro bool) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("ifname=%s: no name of an interface", name)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_, missing := net.InterfaceByName(name)
		switch {
		case errors.Is(err, unix.EPERM) && missing != nil:
			return fmt.Errorf("%s is not there, and this process may not make it: %w", name, refused(err, "CAP_NET_ADMIN"))
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%s: not made for this user (ip tuntap add dev %[1]s mode tap user NAME): %w", name, refused(err, "CAP_NET_ADMIN"))
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("%s: another program has it: %w", name, err)
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("%s: no tap with one queue: %w", name, err)
		}
		return fmt.Errorf("%s: TUNSETIFF: %w", name, err)
	}
	// Another program may have left a longer header with a tap that stays.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, netdev.VnetSize); err != nil {
		return fmt.Errorf("%s: TUNSETVNETHDRSZ: %w", name, err)
	}
	offloads := 0
	if gro {
		offloads = tunCsum | tunTSO4 | tunTSO6
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		return fmt.Errorf("%s: TUNSETOFFLOAD: %w", name, err)
	}
	return nil
}

// tap is a device over a tap, which takes and gives one frame a system call.
type tap struct {
	*handle
	// vnet is whether frames have a virtio_net_hdr.
	vnet     bool
	depth    int
	offloads netdev.Offloads
	counters netdev.Counters

	head    [netdev.VnetSize]byte // the reader's
	vectors []unix.Iovec

	mu    sync.Mutex
	out   batch
	stuck bool
}

func newTap(h *handle, s *Spec, vnet bool) *tap {
	t := &tap{handle: h, vnet: vnet, depth: s.Depth}
	t.out.headers = make([]byte, netdev.VnetSize)
	// Without gro the host completes and cuts what it sends, and checks what we send.
	t.offloads = netdev.Offloads{Checksum: vnet, Segments: vnet && s.GRO}
	return t
}

// Read implements netdev.Device.Read.
func (t *tap) Read(frames []netdev.Frame) (int, error) {
	n := 0
	// Frames that are dropped count too: a flood of them ends the loop.
	for range min(len(frames), t.depth) {
		f := &frames[n]
		room := 0
		t.vectors = t.vectors[:0]
		if t.vnet {
			t.vectors = append(t.vectors, vector(t.head[:]))
		}
		for _, p := range f.Pieces {
			t.vectors = append(t.vectors, vector(p))
			room += len(p)
		}
		got, err := t.try(func(fd int) (int, unix.Errno) {
			n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&t.vectors[0])), uintptr(len(t.vectors)))
			return int(n), errno
		})
		switch {
		case errors.Is(err, unix.EBADFD):
			return n, io.EOF // the tap was removed
		case n > 0 && err != nil:
			return n, nil // said again by the next call, if it lasts
		case err != nil || got <= 0:
			return n, err
		}
		f.Offload = netdev.Offload{}
		if t.vnet {
			if got < netdev.VnetSize {
				t.counters.ReceiveErrors.Add(1)
				continue
			}
			f.Offload = netdev.Vnet(t.head[:])
			got -= netdev.VnetSize
		}
		if got >= room {
			// A tap says nothing of what it cut off.
			t.counters.ReceiveDropped.Add(1)
			continue
		}
		f.Size = got
		n++
	}
	return n, nil
}

// Wait implements netdev.Device.Wait.
func (t *tap) Wait() error { return t.waitReadable() }

// Write implements netdev.Device.Write.
func (t *tap) Write(frames []netdev.Frame) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sent := 0
	for i := range frames {
		b := &t.out
		b.vectors = b.vectors[:0]
		var head []byte
		if t.vnet {
			head = b.headers
			netdev.PutVnet(head, &frames[i].Offload)
		}
		b.gather(head, frames[i].Pieces)
		for waited := t.stuck; ; {
			n, err := t.try(func(fd int) (int, unix.Errno) {
				n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&b.vectors[0])), uintptr(len(b.vectors)))
				return int(n), errno
			})
			if errors.Is(err, os.ErrClosed) {
				return sent, err
			}
			if err == nil && n <= 0 && !waited && t.waitWritable(patience) {
				waited = true
				continue
			}
			switch {
			case err != nil:
				t.counters.SendErrors.Add(1)
			case n <= 0:
				t.stuck = true
				t.counters.SendDropped.Add(1)
			default:
				t.stuck = false
				sent++
			}
			break
		}
	}
	return sent, nil
}

// BatchSize implements netdev.Device.BatchSize.
func (t *tap) BatchSize() int { return t.depth }

// Offloads implements netdev.Device.Offloads.
func (t *tap) Offloads() netdev.Offloads { return t.offloads }

// Counters implements netdev.Device.Counters.
func (t *tap) Counters() *netdev.Counters { return &t.counters }

// Close implements netdev.Device.Close.
func (t *tap) Close() error { return t.close() }
