package boot

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Getty opens a terminal, asks who is there and hands over to login.
func Getty(e *applet.Env, args []string) error {
	var noIssue, noName, local, console bool
	login, user := "", ""
	var o applet.Options
	o.Bool(&noIssue, 'i', "noissue")
	o.Bool(&noName, 'n', "skip-login")
	o.Bool(&local, 'L', "local-line")
	o.Bool(&console, 0, "console") // init's own: root needs no name where root has no password
	o.String(&login, 'l', "login-program")
	o.String(&user, 'a', "autologin")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	tty, kind, speed, err := gettyOperands(operands)
	if err != nil {
		return err
	}
	if err := takeTerminal(tty); err != nil {
		return err
	}
	setLine(local, speed)
	if kind != "" {
		os.Setenv("TERM", kind)
	}
	if console && user == "" && freeRoot() {
		user = "root"
	}
	argv := []string{"login"}
	switch {
	case user != "":
		argv = append(argv, "-f", user)
	case !noName:
		name, err := askName(e, noIssue, filepath.Base(tty))
		if err != nil {
			return err
		}
		argv = append(argv, "--", name)
	}
	if login != "" {
		if noName {
			argv = argv[:1]
		}
		argv[0] = filepath.Base(login)
		return execute(login, argv)
	}
	return execute(self, argv)
}

func execute(path string, argv []string) error {
	if err := unix.Exec(path, argv, os.Environ()); err != nil {
		return fmt.Errorf("%s: %s", path, applet.Reason(err))
	}
	return nil
}

// gettyOperands reads BAUD TTY [TERM] or TTY [BAUD] [TERM].
func gettyOperands(operands []string) (tty, kind string, speed int, err error) {
	rest := operands
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		first, _, _ := strings.Cut(word, ",")
		if n, nerr := strconv.Atoi(first); nerr == nil && speed == 0 {
			speed = n
		} else if tty == "" {
			tty = word
		} else if kind == "" {
			kind = word
		} else {
			return "", "", 0, applet.Usagef("unexpected operand %s", applet.Quote(word))
		}
	}
	if tty == "" {
		return "", "", 0, applet.Usagef("missing terminal")
	}
	return tty, kind, speed, nil
}

// takeTerminal makes /dev/tty our controlling terminal and descriptors 0 to
// 2; "-" means that they are it already.
func takeTerminal(tty string) error {
	if tty == "-" {
		return nil
	}
	path := tty
	if !filepath.IsAbs(path) {
		path = filepath.Join("/dev", tty)
	}
	unix.Setsid() // fails when init did it for us
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("%s: %s", path, applet.Reason(err))
	}
	if !applet.IsTerminal(fd) {
		// Nobody can answer there; init would only start us again.
		return fmt.Errorf("%s: not a terminal", path)
	}
	// Where another session has it and we may not steal it, there is no ^C.
	unix.IoctlSetInt(fd, unix.TIOCSCTTY, 1)
	for i := range 3 {
		if fd != i {
			if err := unix.Dup3(fd, i, 0); err != nil {
				return fmt.Errorf("%s: %s", path, applet.Reason(err))
			}
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
	return nil
}

// setLine gives the terminal the modes of a login.
func setLine(local bool, speed int) {
	t, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return
	}
	t.Iflag |= unix.ICRNL | unix.IXON | unix.BRKINT
	t.Iflag &^= unix.IGNBRK | unix.INLCR | unix.IGNCR | unix.ISTRIP
	t.Oflag |= unix.OPOST | unix.ONLCR
	t.Lflag |= unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN
	t.Lflag &^= unix.ECHONL | unix.NOFLSH | unix.TOSTOP
	t.Cflag |= unix.CREAD
	if local {
		t.Cflag |= unix.CLOCAL
	}
	if code, ok := speeds[speed]; ok {
		t.Cflag = t.Cflag&^unix.CBAUD | code
		t.Ispeed, t.Ospeed = uint32(speed), uint32(speed)
	}
	unix.IoctlSetTermios(0, unix.TCSETS, t)
}

var speeds = map[int]uint32{
	1200: unix.B1200, 2400: unix.B2400, 4800: unix.B4800, 9600: unix.B9600, 19200: unix.B19200,
	38400: unix.B38400, 57600: unix.B57600, 115200: unix.B115200,
}

// freeRoot says whether root has no password at all.
func freeRoot() bool {
	db := account.Load()
	root, ok := db.User("root")
	if !ok {
		return true // a guest without users has nobody else
	}
	hash, err := account.Hash(root)
	return err == nil && hash == ""
}

// nameTimeout bounds how long a half-typed name may occupy the terminal.
const maxName = 256

func askName(e *applet.Env, noIssue bool, tty string) (string, error) {
	if !noIssue {
		issue(e.Stdout, tty)
	}
	for {
		host, _ := os.Hostname()
		fmt.Fprintf(e.Stdout, "%s login: ", host)
		e.Stdout.Flush()
		name, err := readLine(os.Stdin, maxName)
		if err != nil {
			return "", fmt.Errorf("%s: %s", tty, applet.Reason(err))
		}
		if name = strings.TrimSpace(name); name != "" && name[0] != '-' {
			return name, nil
		}
	}
}

// readLine reads a line byte by byte, leaving what follows to others.
func readLine(r io.Reader, limit int) (string, error) {
	var line []byte
	for len(line) < limit {
		var b [1]byte
		n, err := r.Read(b[:])
		if n == 1 {
			if b[0] == '\n' || b[0] == '\r' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		if err != nil {
			if err == io.EOF && len(line) > 0 {
				return string(line), nil
			}
			return "", err
		}
	}
	return "", fmt.Errorf("a line of more than %d bytes", limit)
}

// issue shows /etc/issue with its escapes.
func issue(w *applet.Writer, tty string) {
	f, err := os.Open("/etc/issue")
	if err != nil {
		return
	}
	defer f.Close()
	var u unix.Utsname
	unix.Uname(&u)
	str := func(b []byte) string { return unix.ByteSliceToString(b) }
	r := bufio.NewReader(io.LimitReader(f, 64<<10))
	for {
		c, err := r.ReadByte()
		if err != nil {
			return
		}
		if c != '\\' {
			w.WriteByte(c)
			continue
		}
		c, err = r.ReadByte()
		if err != nil {
			return
		}
		switch c {
		case 'n':
			w.WriteString(str(u.Nodename[:]))
		case 's':
			w.WriteString(str(u.Sysname[:]))
		case 'r':
			w.WriteString(str(u.Release[:]))
		case 'v':
			w.WriteString(str(u.Version[:]))
		case 'm':
			w.WriteString(str(u.Machine[:]))
		case 'o':
			w.WriteString(str(u.Domainname[:]))
		case 'l':
			w.WriteString(tty)
		case 'd':
			w.WriteString(time.Now().Format("Mon Jan _2 2006"))
		case 't':
			w.WriteString(time.Now().Format("15:04:05"))
		case '\\':
			w.WriteByte('\\')
		}
	}
}
