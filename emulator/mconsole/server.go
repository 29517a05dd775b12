// Package mconsole is the machine's side of the management console: a socket in the
// machine's directory that takes commands and answers them, in the protocol of
// github.com/umlkit/umlkit/mconsole and in the words of real kernels.
package mconsole

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/mconsole"
)

// Machine is what the console commands. Its methods are called by one goroutine at a time.
type Machine interface {
	// Interrupted is told of every packet that comes.
	Interrupted()
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

const (
	// replyPatience is how long a packet of an answer waits for room in its reader's
	// queue, and answerPatience how long all of an answer does.
	replyPatience  = 5 * time.Second
	answerPatience = time.Minute
	// maxWaiting is how many readers may have answers waiting for them at a time, and
	// maxPackets how many packets each of them: answers beyond that are dropped.
	maxWaiting = 8
	// sendBuffer is the server's buffer in bytes: that of some 1,600 packets.
	sendBuffer = 1 << 20
	maxPackets = 1 << 14
)

// ErrRead is what ReadProc fails with where a file can be opened and not be read.
var ErrRead = errors.New("the file cannot be read")

// Server answers on a socket until it is closed.
type Server struct {
	machine  Machine
	sock     *socket
	patience time.Duration
	buffer   int           // bytes that may be sent and not be read yet
	done     chan struct{} // closed when serve has returned
	closing  chan struct{}
	once     sync.Once
	err      error

	mu      sync.Mutex
	waiting map[address]*backlog
	drains  sync.WaitGroup
}

// backlog is what waits for room in a reader's queue, in order.
type backlog struct{ packets []packet }

// packet is one packet of an answer. after, when not nil, is done once it is sent, or
// given up.
type packet struct {
	bytes []byte
	after func()
}

// Listen makes the socket and serves it. The path must be free.
func Listen(path string, machine Machine) (*Server, error) {
	return listen(path, machine, replyPatience)
}

// listen is Listen with how long a packet may wait.
func listen(path string, machine Machine, patience time.Duration) (*Server, error) {
	sock, err := listenAt(path)
	if err != nil {
		return nil, fmt.Errorf("management console: %w", err)
	}
	s := &Server{
		machine: machine, sock: sock, patience: patience, buffer: sock.setBuffer(sendBuffer),
		done: make(chan struct{}), closing: make(chan struct{}), waiting: make(map[address]*backlog),
	}
	go s.serve()
	return s, nil
}

// Path is where the socket is.
func (s *Server) Path() string { return s.sock.path }

// Close ends the service and removes the socket. It may be called on nil.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		close(s.closing)
		s.sock.wake()
		<-s.done
		s.drains.Wait()
		s.err = s.sock.close()
	})
	return s.err
}

func (s *Server) serve() {
	defer close(s.done)
	b := make([]byte, mconsole.MaxPacket+1)
	for {
		n, from, err := s.sock.receive(b)
		select {
		case <-s.closing:
			return
		default:
		}
		if err != nil {
			// Want of memory, at most: it passes, and must not make a loop.
			time.Sleep(time.Millisecond)
			continue
		}
		s.machine.Interrupted()
		if !from.bound() {
			// Nobody to answer.
			continue
		}
		if isAnswer(b[:n]) {
			continue
		}
		s.send(from, handle(s.machine, b[:n]))
	}
}

// oldClient is what a client from before there were versions is told: it takes text alone.
const oldClient = "ERR Version 0 mconsole clients are not supported by this driver"

// isAnswer reports whether a packet is an answer itself, of this machine or of another whose
// socket somebody gave for his own. Two that answer each other's answers would never end.
func isAnswer(b []byte) bool {
	r, err := mconsole.DecodeReply(b)
	if err != nil {
		return string(b) == oldClient
	}
	again, err := r.Encode()
	return err == nil && bytes.Equal(again, b)
}

// handle answers what came.
func handle(m Machine, b []byte) []packet {
	command, err := mconsole.DecodeRequest(b)
	if err != nil {
		return refusal(err)
	}
	code, text, after := Do(m, command)
	return answer(code, text, after)
}

// refusal is the answer to a packet that is no request, in the words of real kernels.
func refusal(err error) []packet {
	text := err.Error()
	var bad *mconsole.ProtocolError
	if errors.As(err, &bad) {
		switch bad.Field {
		case "magic":
			return []packet{{bytes: []byte(oldClient)}}
		case "version":
			text = fmt.Sprintf("This driver only supports version %d clients", mconsole.Version)
		case "len":
			if bad.Value >= mconsole.MaxData {
				text = "Request too large"
			}
		}
	}
	return answer(1, text, nil)
}

// answer is an answer in packets.
func answer(code int32, text string, after func()) []packet {
	var packets []packet
	for _, r := range mconsole.Replies(code, []byte(text)) {
		if b, err := r.Encode(); err == nil {
			packets = append(packets, packet{bytes: b})
		}
	}
	packets[len(packets)-1].after = after
	return packets
}

// send sends packets to a reader. What its queue has no room for waits for it, in the
// order of the answers, and does not keep others from theirs.
func (s *Server) send(to address, packets []packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.waiting[to]
	if queue == nil {
		for first := true; len(packets) > 0; first = false {
			if !first && !s.room() {
				break
			}
			err := s.sock.send(packets[0].bytes, &to)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				giveUp(packets)
				return
			}
			packets[0].done()
			packets = packets[1:]
		}
		if len(packets) == 0 {
			return
		}
		if len(s.waiting) >= maxWaiting {
			giveUp(packets)
			return
		}
		queue = &backlog{}
		s.waiting[to] = queue
		s.drains.Add(1)
		go s.drain(to, queue)
	}
	if len(queue.packets)+len(packets) > maxPackets {
		giveUp(packets)
		return
	}
	queue.packets = append(queue.packets, packets...)
}

// drain sends what waits for a reader, all of it or up to the first packet that there
// is no room for in time.
func (s *Server) drain(to address, queue *backlog) {
	defer s.drains.Done()
	end := time.Now().Add(answerPatience)
	for {
		s.mu.Lock()
		if len(queue.packets) == 0 {
			delete(s.waiting, to)
			s.mu.Unlock()
			return
		}
		p := queue.packets[0]
		queue.packets = queue.packets[1:]
		s.mu.Unlock()
		patience := min(s.patience, time.Until(end))
		if err := s.sendWithin(p.bytes, &to, patience); err != nil {
			s.mu.Lock()
			delete(s.waiting, to)
			s.mu.Unlock()
			// Nobody else adds to the queue now.
			giveUp(append([]packet{p}, queue.packets...))
			return
		}
		p.done()
	}
}

// sendWithin waits as long as patience for room in the reader's queue.
func (s *Server) sendWithin(b []byte, to *address, patience time.Duration) error {
	// The queue that is full is the reader's: ours counts as writable all the while,
	// and only trying again tells.
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := error(unix.EAGAIN)
		if s.room() {
			err = s.sock.send(b, to)
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-s.closing:
			return net.ErrClosed
		}
	}
}

// room says whether there is room to send more than the beginning of an answer. What was
// sent and not read yet lies in the server's own buffer, without any other bound where a
// reader is connected to it; half of that is kept for those who do read.
func (s *Server) room() bool { return s.buffer == 0 || s.sock.unsent() < s.buffer/2 }

func (p packet) done() {
	if p.after != nil {
		p.after()
	}
}

// giveUp drops packets; what was to be done after them is done.
func giveUp(packets []packet) {
	for _, p := range packets {
		p.done()
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
