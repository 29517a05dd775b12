package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/umlkit/umlkit/mconsole"
)

const localHelp = `Additional local mconsole commands:
    quit - Quit mconsole
    switch <socket-name> - Switch control to the given machine
    log -f <filename> - use contents of <filename> as UML log messages
    mconsole-version - version of this mconsole program
    int  - Interrupt UML session
`

var errQuit = errors.New("quit")

// session is a talk with one machine, and after a switch with another.
type session struct {
	ctx    context.Context
	out    io.Writer
	errs   io.Writer
	dirs   []string
	name   string
	client mconsole.Client
}

func (s *session) switchTo(name string) error {
	socket, err := mconsole.Find(name, s.dirs...)
	if err != nil {
		return err
	}
	s.name, s.client.Socket = name, socket
	return nil
}

// do does a command, here or in the machine, and returns the exit status that stands for
// its reply.
func (s *session) do(line string) (status int, err error) {
	line = strings.TrimRight(line, " \t\r\n")
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "quit":
		return 0, errQuit
	case "mconsole-version":
		fmt.Fprintf(s.out, "uml_mconsole client version %d\n", mconsole.Version)
		return 0, nil
	case "switch":
		if rest == "" {
			return 1, errors.New("switch: which machine?")
		}
		if err := s.switchTo(rest); err != nil {
			return 1, err
		}
		fmt.Fprintf(s.out, "Switched to '%s'\n", rest)
		return 0, nil
	case "int":
		return s.interrupt()
	case "log":
		if file, ok := strings.CutPrefix(rest, "-f "); ok {
			return s.logFile(strings.TrimSpace(file))
		}
		if rest == "-f" {
			return 1, errors.New("log -f: which file?")
		}
	case "config":
		if line, err = withAbsolutePaths(rest); err != nil {
			return 1, err
		}
	case "help":
		status, err := s.send(line)
		if err == nil {
			fmt.Fprint(s.out, localHelp)
		}
		return status, err
	}
	return s.send(line)
}

// withAbsolutePaths returns the command that configures what spec says. A disk's files are
// named as they are seen from here; the machine may stand in another directory.
func withAbsolutePaths(spec string) (command string, err error) {
	unit, files, ok := strings.Cut(spec, "=")
	if !ok || !strings.HasPrefix(unit, "ubd") {
		return "config " + spec, nil
	}
	var b strings.Builder
	b.WriteString("config " + unit + "=")
	// The image or the COW file, the backing file; a serial number is no path.
	for range 2 {
		file, rest := files, ""
		if end := strings.IndexAny(files, ",:"); end >= 0 {
			file, rest = files[:end], files[end:]
		}
		if file, err = absolute(file); err != nil {
			return "", err
		}
		b.WriteString(file)
		if rest == "" {
			return b.String(), nil
		}
		b.WriteByte(rest[0])
		files = rest[1:]
	}
	return b.String() + files, nil
}

// absolute makes a path good in every directory. A ".." stays: what stands before it may
// be a symbolic link.
func absolute(path string) (string, error) {
	if path == "" || filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return wd + "/" + strings.TrimPrefix(path, "./"), nil
}

// send has the machine do a command and prints its reply, packet by packet.
func (s *session) send(command string) (status int, err error) {
	first := true
	code, err := s.client.Command(s.ctx, command, func(r mconsole.Reply) error {
		if first {
			first = false
			word := "OK "
			if r.Err != 0 {
				word = "ERR "
			}
			if _, err := io.WriteString(s.out, word); err != nil {
				return err
			}
		}
		_, err := s.out.Write(r.Data)
		return err
	})
	if !first {
		fmt.Fprintln(s.out)
	}
	if err != nil {
		return 1, err
	}
	return int(code & 0xff), nil
}

// interrupt sends SIGINT to the machine's process, whose number is in a file beside the
// socket. The machine must answer first: after a kill the file stays, and the number
// may by now be another process's.
func (s *session) interrupt() (status int, err error) {
	path := filepath.Join(filepath.Dir(s.client.Socket), "pid")
	b, err := readFile(path, 64)
	if err != nil {
		return 1, fmt.Errorf("the machine's process is not known: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 1, fmt.Errorf("%s holds no process number", path)
	}
	if _, err := s.client.Command(s.ctx, "version", func(mconsole.Reply) error { return nil }); err != nil {
		return 1, fmt.Errorf("not interrupted, it does not answer: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		return 1, fmt.Errorf("interrupt process %d: %w", pid, err)
	}
	return 0, nil
}

// logFile has the machine log a file's content, in pieces that a request takes, each of
// whole lines where that is possible.
func (s *session) logFile(name string) (status int, err error) {
	b, err := readFile(name, 16<<20)
	if err != nil {
		return 1, err
	}
	const verb = "log "
	most := mconsole.MaxData - 1 - len(verb)
	for len(b) > 0 {
		n := min(len(b), most)
		if n < len(b) {
			if end := bytes.LastIndexByte(b[:n], '\n'); end > 0 {
				n = end + 1
			}
		}
		if status, err := s.send(verb + string(b[:n])); err != nil || status != 0 {
			return status, err
		}
		b = b[n:]
	}
	return 0, nil
}

// readFile reads a file that is at most so many bytes long.
func readFile(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return b, err
}
