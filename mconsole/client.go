package mconsole

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// DefaultTimeout is how long a Client waits for a packet. A machine answers at once,
// even while it is stopped; one that lost a packet never sends it again.
const DefaultTimeout = 10 * time.Second

// maxReply bounds an answer, in bytes; /proc files and stacks are far smaller.
const maxReply = 64 << 20

// Client speaks to the management console of one machine. It keeps nothing open between
// commands, so that a machine may reboot; it may be used by several goroutines.
type Client struct {
	// Socket is the path of the machine's console socket.
	Socket string
	// Timeout is how long to wait for a packet; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Command has the machine do a command. It calls packet for each packet of the answer, as
// it comes; the packet's data is valid during the call. It returns the answer's error
// number: 0, a negative errno or 1. An error is one of the talk, not of the command.
func (c Client) Command(ctx context.Context, command string, packet func(Reply) error) (int32, error) {
	request, err := EncodeRequest(command)
	if err != nil {
		return 0, err
	}
	// A socket of its own for every command: a late packet of another one's answer
	// cannot be taken for this one's. It is connected: nobody else can answer.
	conn, err := c.connect()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(request); err != nil {
		return 0, c.failed(ctx, "send to", err, timeout)
	}
	var b [MaxPacket]byte
	total := 0
	end := time.Now().Add(timeout)
	for {
		// A socket that goes away does not wake who waits for its answer.
		soon := time.Now().Add(lookEvery)
		if soon.After(end) {
			soon = end
		}
		if err := conn.SetReadDeadline(soon); err != nil {
			return 0, err
		}
		if ctx.Err() != nil { // its deadline may just have been overwritten
			return 0, ctx.Err()
		}
		n, err := conn.Read(b[:])
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) && ctx.Err() == nil {
			if err := c.gone(); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, c.failed(ctx, "receive from", err, timeout)
		}
		end = time.Now().Add(timeout)
		reply, err := DecodeReply(b[:n])
		if err != nil {
			return 0, fmt.Errorf("receive from %s: %w", c.Socket, err)
		}
		if total += len(reply.Data); total > maxReply {
			return 0, fmt.Errorf("receive from %s: the answer has no end", c.Socket)
		}
		if err := packet(reply); err != nil {
			return 0, err
		}
		if !reply.More {
			return reply.Err, nil
		}
	}
}

// lookEvery is how often a Client that waits looks whether the machine is still there.
const lookEvery = 250 * time.Millisecond

// gone is why the machine cannot be connected to any more.
func (c Client) gone() error {
	conn, err := c.connect()
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c Client) connect() (*net.UnixConn, error) {
	conn, err := dial(c.Socket)
	if err == nil {
		return conn, nil
	}
	err = cause(err)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("connect to %s: %w: its machine is gone", c.Socket, err)
	}
	return nil, fmt.Errorf("connect to %s: %w", c.Socket, err)
}

// maxAddress is the longest path that a socket address takes.
const maxAddress = 107

// dial connects to a socket by a path of any length, from an abstract address of its
// own: a machine replies to where a request came from.
func dial(path string) (*net.UnixConn, error) {
	if len(path) > maxAddress {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	from := "@uml_mconsole-" + rand.Text()
	return net.DialUnix("unixgram", &net.UnixAddr{Name: from, Net: "unixgram"}, &net.UnixAddr{Name: path, Net: "unixgram"})
}

func (c Client) failed(ctx context.Context, what string, err error, timeout time.Duration) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s %s: the machine does not answer: nothing came for %v", what, c.Socket, timeout)
	}
	return fmt.Errorf("%s %s: %w", what, c.Socket, cause(err))
}

// cause takes the addresses off an error of package net.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}

// Find returns the path of a machine's console socket. The name is a umid, looked for
// below the given directories, or else a path, of the socket or of the directory that
// has it.
func Find(name string, dirs ...string) (string, error) {
	var tried []string
	if filepath.Base(name) == name {
		for _, dir := range dirs {
			tried = append(tried, filepath.Join(dir, name, "mconsole"))
		}
	}
	tried = append(tried, filepath.Join(name, "mconsole"), name)
	for _, path := range tried {
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("no machine %q: there is no socket %s", name, list(tried))
}

func list(paths []string) string {
	s := paths[0]
	for _, p := range paths[1:] {
		s += ", " + p
	}
	return s
}
