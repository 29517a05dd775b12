// Package line joins the machine's terminals to the outside: to descriptors the
// process was started with, to TCP ports that answer telnet, to ptys and terminals of
// the host, and to windows.
//
// A channel is one open connection, with an input half and an output half. What a
// channel shall be is said by a Pair, the "IN[,OUT]" of con0= and ssl0=. A Host holds
// what all channels of a process share: the descriptors, the modes that host
// terminals had before, and the watch over window sizes.
package line

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Kind is a kind of channel.
type Kind int

// The kinds of channels, in the words of the command line.
const (
	// Null discards what is written and never gives input.
	Null Kind = iota
	// None is no device: opening it fails.
	None
	// FD is a descriptor of the process.
	FD
	// Port is a TCP port that answers telnet.
	Port
	// Pty is the first free pty of the host, a BSD one where there are any.
	Pty
	// Pts is a pty whose other side is under /dev/pts.
	Pts
	// TTY is a terminal of the host, opened by path.
	TTY
	// Xterm is a terminal window.
	Xterm
)

// kindNames are the words of the command line.
var kindNames = [...]string{Null: "null", None: "none", FD: "fd", Port: "port", Pty: "pty", Pts: "pts", TTY: "tty", Xterm: "xterm"}

// String is the kind's word on the command line.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return kindNames[k]
}

// End says what one half of a channel is.
type End struct {
	Kind Kind
	// Number is the descriptor of an FD and the port of a Port.
	Number int
	// Address is where a Port listens. Empty is 127.0.0.1.
	Address string
	// Path is the host's terminal of a TTY.
	Path string
}

// String is the end as Parse takes it.
func (e End) String() string {
	switch e.Kind {
	case Port:
		if e.Address != "" {
			return "port:" + net.JoinHostPort(e.Address, strconv.Itoa(e.Number))
		}
		fallthrough
	case FD:
		return fmt.Sprintf("%s:%d", e.Kind, e.Number)
	case TTY:
		return fmt.Sprintf("%s:%s", e.Kind, e.Path)
	}
	return e.Kind.String()
}

// Pair says what a channel is: where input comes from and where output goes.
type Pair struct {
	In, Out End
}

// String is the pair as Parse takes it: one end when both are the same.
func (p Pair) String() string {
	if p.In == p.Out {
		return p.In.String()
	}
	return p.In.String() + "," + p.Out.String()
}

// A SyntaxError is a specification that names no channel.
type SyntaxError struct {
	// Spec is the whole specification, End the half at fault.
	Spec, End string
	// Reason says what is wrong with it.
	Reason string
}

func (e *SyntaxError) Error() string {
	if e.End == e.Spec {
		return fmt.Sprintf("channel %q: %s", e.Spec, e.Reason)
	}
	return fmt.Sprintf("channel %q: %q: %s", e.Spec, e.End, e.Reason)
}

// Parse reads "IN[,OUT]". With one half only, it serves for both.
func Parse(spec string) (Pair, error) {
	in, out, two := strings.Cut(spec, ",")
	first, reason := parseEnd(in)
	if reason != "" {
		return Pair{}, &SyntaxError{Spec: spec, End: in, Reason: reason}
	}
	if !two {
		return Pair{In: first, Out: first}, nil
	}
	second, reason := parseEnd(out)
	if reason != "" {
		return Pair{}, &SyntaxError{Spec: spec, End: out, Reason: reason}
	}
	if (first.Kind == None) != (second.Kind == None) {
		return Pair{}, &SyntaxError{Spec: spec, End: spec, Reason: "none stands alone"}
	}
	return Pair{In: first, Out: second}, nil
}

// parseEnd reads one half. The reason is empty when it can be read. Blanks around the
// half and behind its colon are passed over, as the HOWTO writes them.
func parseEnd(s string) (end End, reason string) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "/") {
		return End{Kind: TTY, Path: s}, ""
	}
	word, arg, hasArg := strings.Cut(s, ":")
	arg = strings.TrimSpace(arg)
	switch word {
	case "null", "none", "pty", "pts", "xterm":
		if hasArg {
			return End{}, word + " takes no argument"
		}
		for kind, name := range kindNames {
			if name == word {
				return End{Kind: Kind(kind)}, ""
			}
		}
	case "fd":
		n, err := strconv.ParseUint(arg, 10, 31)
		if err != nil {
			return End{}, "fd needs the number of a descriptor, as fd:0"
		}
		return End{Kind: FD, Number: int(n)}, ""
	case "port":
		return parsePort(arg)
	case "tty":
		if !strings.HasPrefix(arg, "/") {
			return End{}, "tty needs the path of a terminal, as tty:/dev/tty8"
		}
		return End{Kind: TTY, Path: arg}, ""
	}
	return End{}, "not one of null, none, fd:N, port:N, pty, pts, tty:PATH, xterm"
}

// parsePort reads "N" or "ADDRESS:N". An address is one of this host's, in numbers, so
// that no name has to be looked up.
func parsePort(arg string) (end End, reason string) {
	const want = "port needs the number of a TCP port, as port:9000, or an address and a number, as port:0.0.0.0:9000"
	end.Kind = Port
	number := arg
	if host, after, err := net.SplitHostPort(arg); err == nil {
		address, err := netip.ParseAddr(host)
		if err != nil {
			return End{}, want
		}
		end.Address, number = address.String(), after
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return End{}, want
	}
	end.Number = int(n)
	return end, ""
}
