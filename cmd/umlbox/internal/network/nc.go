package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
)

// Nc joins standard input and output to a connection.
func Nc(e *applet.Env, args []string) error {
	var listen, keep, udp, scan, verbose, unixSocket, closeAtEnd bool
	var port string
	var patience time.Duration
	family := ""
	var o applet.Options
	o.Bool(&listen, 'l', "")
	o.Bool(&keep, 'k', "")
	o.String(&port, 'p', "")
	o.Bool(&udp, 'u', "")
	o.Bool(&unixSocket, 'U', "")
	o.Bool(&scan, 'z', "")
	o.Bool(&verbose, 'v', "")
	o.Bool(&closeAtEnd, 'N', "")
	o.Value('w', "", func(s string) (err error) { patience, err = clock.Duration(s); return err })
	o.Func('4', "", func() { family = "4" })
	o.Func('6', "", func() { family = "6" })
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	network, address := "tcp"+family, ""
	if udp {
		network = "udp" + family
	}
	switch {
	case unixSocket && len(operands) == 1:
		network, address = "unix", operands[0]
	case listen && port == "" && len(operands) == 1:
		address = net.JoinHostPort("", operands[0])
	case listen && port == "" && len(operands) == 2, !listen && len(operands) == 2:
		address = net.JoinHostPort(operands[0], operands[1])
	case listen && port != "" && len(operands) <= 1:
		host := ""
		if len(operands) == 1 {
			host = operands[0]
		}
		address = net.JoinHostPort(host, port)
	default:
		return applet.Usagef("a host and a port are needed")
	}
	n := &netcat{e: e, verbose: verbose, idle: patience, closeAtEnd: closeAtEnd}
	if listen {
		if udp {
			return n.datagrams(network, address)
		}
		return n.serve(network, address, keep)
	}
	dialer := net.Dialer{Timeout: patience}
	if port != "" {
		if dialer.LocalAddr, err = local(network, port); err != nil {
			return err
		}
	}
	conn, err := dialer.Dial(network, address)
	if err != nil {
		if !verbose && scan {
			return applet.Status(1)
		}
		return fmt.Errorf("connect to %s failed: %s", address, applet.Reason(err))
	}
	defer conn.Close()
	if verbose {
		fmt.Fprintf(e.Stderr, "Connection to %s succeeded!\n", address)
	}
	if scan {
		return nil
	}
	return n.join(conn)
}

func local(network, port string) (net.Addr, error) {
	if network[:3] == "udp" {
		return net.ResolveUDPAddr(network, ":"+port)
	}
	return net.ResolveTCPAddr(network, ":"+port)
}

type netcat struct {
	e          *applet.Env
	verbose    bool
	closeAtEnd bool
	idle       time.Duration
}

func (n *netcat) serve(network, address string, keep bool) error {
	l, err := net.Listen(network, address)
	if err != nil {
		return fmt.Errorf("listen on %s: %s", address, applet.Reason(err))
	}
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if n.verbose {
			fmt.Fprintf(n.e.Stderr, "Connection received on %s\n", conn.RemoteAddr())
		}
		err = n.join(conn)
		conn.Close()
		if err != nil || !keep {
			return err
		}
	}
}

// datagrams takes datagrams, and sends to whoever sent the first.
func (n *netcat) datagrams(network, address string) error {
	pc, err := net.ListenPacket(network, address)
	if err != nil {
		return fmt.Errorf("listen on %s: %s", address, applet.Reason(err))
	}
	defer pc.Close()
	var peer net.Addr
	buf := make([]byte, 64<<10)
	for {
		if peer != nil && n.idle > 0 {
			pc.SetReadDeadline(time.Now().Add(n.idle))
		}
		k, from, err := pc.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if peer == nil {
			peer = from
			go func() {
				in := make([]byte, 16<<10)
				for {
					k, err := n.e.Stdin.Read(in)
					if k > 0 {
						pc.WriteTo(in[:k], peer)
					}
					if err != nil {
						return
					}
				}
			}()
		}
		n.e.Stdout.Write(buf[:k])
		if err := n.e.Stdout.Flush(); err != nil {
			return err
		}
	}
}

// join copies both ways until the other side has nothing more to say, and
// standard input, unless it is a terminal, is sent. The end of our input closes
// our half of the connection, with -N all of it.
func (n *netcat) join(conn net.Conn) error {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(conn, n.e.Stdin)
		if c, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			c.CloseWrite()
		}
		if n.closeAtEnd {
			conn.Close()
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		if n.idle > 0 {
			conn.SetReadDeadline(time.Now().Add(n.idle))
		}
		k, err := conn.Read(buf)
		n.e.Stdout.Write(buf[:k])
		if ferr := n.e.Stdout.Flush(); ferr != nil {
			return ferr
		}
		switch {
		case err == io.EOF:
			if !applet.IsTerminal(0) {
				<-sent
			}
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read: %s", applet.Reason(err))
		}
	}
}
