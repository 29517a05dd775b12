package transport

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// What a port asks uml_switch(1) for: struct request_v3 of uml-utilities, in the host's
// order, a struct sockaddr_un in it.
const (
	switchMagic   = 0xfeedface
	switchVersion = 3
	switchNewPort = 0

	sunSize     = 110 // struct sockaddr_un
	requestSize = 12 + sunSize + 2
)

// defaultSwitch is the socket of a switch that was started without a name.
const defaultSwitch = "/tmp/uml.ctl"

// switchPatience bounds how long a switch may take to answer.
const switchPatience = 5 * time.Second

// openDaemon plugs into a switch: uml_switch, or vde_switch -compat.
func openDaemon(s *Spec) (_ netdev.Device, err error) {
	ctl := s.words["ctl"]
	if ctl == "" {
		ctl = defaultSwitch
	}
	control, err := net.DialTimeout("unix", ctl, switchPatience)
	if err != nil {
		return nil, err
	}
	fd, local, err := switchSocket()
	if err != nil {
		control.Close()
		return nil, err
	}
	remote, err := plugIn(control, local)
	if err != nil {
		control.Close()
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", ctl, err)
	}
	h, err := newHandle(fd, ctl)
	if err != nil {
		control.Close()
		return nil, err
	}
	d := &daemon{socket: &socket{rx: h, tx: h, header: plain{}, depth: s.Depth, to: remote, closing: func() { control.Close() }}}
	go d.watch(control)
	return d, nil
}

// switchSocket makes the socket that frames come to. Its name is not one of a file, and as
// long as a struct sockaddr_un: the switch sends to all of it.
func switchSocket() (fd int, address []byte, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("socket: %w", err)
	}
	address = make([]byte, sunSize)
	binary.NativeEndian.PutUint16(address, unix.AF_UNIX)
	var id [16]byte
	_, _ = rand.Read(id[:])
	copy(address[3:], "umlkit-"+hex.EncodeToString(id[:]))
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&address[0])), sunSize); errno != 0 {
		unix.Close(fd)
		return 0, nil, fmt.Errorf("bind: %w", errno)
	}
	return fd, address, nil
}

// plugIn asks for a port and returns where its frames go.
func plugIn(control net.Conn, local []byte) ([]byte, error) {
	request := make([]byte, requestSize)
	binary.NativeEndian.PutUint32(request, switchMagic)
	binary.NativeEndian.PutUint32(request[4:], switchVersion)
	binary.NativeEndian.PutUint32(request[8:], switchNewPort)
	copy(request[12:], local)
	if err := control.SetDeadline(time.Now().Add(switchPatience)); err != nil {
		return nil, err
	}
	if _, err := control.Write(request); err != nil {
		return nil, err
	}
	remote := make([]byte, sunSize)
	if _, err := io.ReadFull(control, remote); err != nil {
		return nil, fmt.Errorf("no switch answers: %w", err)
	}
	if binary.NativeEndian.Uint16(remote) != unix.AF_UNIX {
		return nil, fmt.Errorf("what answers is no switch: its address is of family %d", binary.NativeEndian.Uint16(remote))
	}
	// The name of a file ends at its zero byte.
	if remote[2] != 0 {
		for i, c := range remote[2:] {
			if c == 0 {
				remote = remote[:2+i+1]
				break
			}
		}
	}
	return remote, control.SetDeadline(time.Time{})
}

// daemon is a port of a switch, for as long as the connection stands that asked for it.
type daemon struct {
	*socket
	gone atomic.Bool
}

// watch waits for the end of the connection, which is that of the port.
func (d *daemon) watch(control net.Conn) {
	_, err := io.Copy(io.Discard, control)
	if errors.Is(err, net.ErrClosed) {
		return
	}
	d.gone.Store(true)
	// Who waits for a frame wakes up.
	_ = d.rx.file.SetReadDeadline(time.Unix(1, 0))
}

// Wait implements netdev.Device.Wait.
func (d *daemon) Wait() error {
	err := d.socket.Wait()
	if err != nil && d.gone.Load() && !errors.Is(err, os.ErrClosed) {
		return io.EOF
	}
	return err
}
