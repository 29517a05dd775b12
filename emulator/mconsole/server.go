// Package mconsole is the machine's side of the management console: a socket in the
// machine's directory that takes commands and answers them, in the protocol of
// github.com/umlkit/umlkit/mconsole and in the words of real kernels.
package mconsole

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/mconsole"
)

// Machine is what the console commands. Its methods are called by one goroutine.
type Machine interface {
	// Version is uname in one line.
	Version() string
	// Driver is the driver of a family of devices, nil if there is none.
	Driver(name string) driver.Driver
	// Halt and Reboot end the kernel.
	Halt()
	Reboot()
	// CtrlAltDel is what the keys do: ask init, or restart.
	CtrlAltDel()
	// Stop and Go hold the guest and let it go on. They report whether that
	// changed anything.
	Stop() bool
	Go() bool
	// Sysrq does what a key of the magic sysrq asks for, and returns what it said.
	Sysrq(key byte) string
	// ReadProc is the content of a file below /proc.
	ReadProc(name string) ([]byte, error)
	// Stack describes a task.
	Stack(pid int) (string, error)
	// Log puts a line into the kernel log.
	Log(text string)
}

// replyPatience is how long a packet of a reply waits for room in its reader's queue.
const replyPatience = 5 * time.Second

// Server answers on a socket until it is closed.
type Server struct {
	machine Machine
	conn    *net.UnixConn
	path    string
	done    chan struct{}
	once    sync.Once
	err     error
}

// Listen makes the socket and serves it. The path must be free.
func Listen(path string, machine Machine) (*Server, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("management console: %w", err)
	}
	s := &Server{machine: machine, conn: conn, path: path, done: make(chan struct{})}
	go s.serve()
	return s, nil
}

// Path is where the socket is.
func (s *Server) Path() string { return s.path }

// Close ends the service and removes the socket. It may be called on nil.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		s.err = s.conn.Close()
		<-s.done
	})
	return s.err
}

func (s *Server) serve() {
	defer close(s.done)
	packet := make([]byte, mconsole.MaxPacket+1)
	for {
		n, from, err := receive(s.conn, packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !from.bound() {
			// Nobody to answer.
			continue
		}
		command, err := mconsole.DecodeRequest(packet[:n])
		var code int32
		var text string
		var after func()
		if err != nil {
			code, text = -22, err.Error()
		} else {
			code, text, after = Do(s.machine, command)
		}
		s.reply(&from, code, text)
		if after != nil {
			after()
		}
	}
}

// reply sends an answer, all of it or up to the first packet the reader has no room
// for in time.
func (s *Server) reply(to *address, code int32, text string) {
	for _, r := range mconsole.Replies(code, []byte(text)) {
		packet, err := r.Encode()
		if err != nil {
			return
		}
		if err := send(s.conn, packet, to, replyPatience); err != nil {
			return
		}
	}
}

// Notify sends a notification to a socket that the command line named.
func Notify(socket string, n mconsole.Notification) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify %s: %w", socket, err)
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(replyPatience))
	if _, err := conn.Write(n.Encode()); err != nil {
		return fmt.Errorf("notify %s: %w", socket, err)
	}
	return nil
}

// cut takes the first word off a command.
func cut(command string) (word, rest string) {
	command = strings.TrimLeft(command, " \t\n")
	i := strings.IndexAny(command, " \t\n")
	if i < 0 {
		return command, ""
	}
	return command[:i], strings.TrimLeft(command[i:], " \t\n")
}
