package system

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Clear clears the screen.
func Clear(e *applet.Env, args []string) error {
	e.Stdout.WriteString("\x1b[H\x1b[2J\x1b[3J")
	return nil
}

// Reset makes a terminal sane and clears it.
func Reset(e *applet.Env, args []string) error {
	if t, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		sane(t)
		if err := unix.IoctlSetTermios(0, unix.TCSETSW, t); err != nil {
			return err
		}
	}
	e.Stdout.WriteString("\x1bc\x1b(B\x1b[m\x1b[J\x1b[?25h")
	return nil
}

// Tty names the terminal of standard input.
func Tty(e *applet.Env, args []string) error {
	var silent bool
	var o applet.Options
	o.Bool(&silent, 's', "silent")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	if !applet.IsTerminal(0) {
		if !silent {
			fmt.Fprintln(e.Stdout, "not a tty")
		}
		return applet.Status(1)
	}
	if !silent {
		name, err := os.Readlink("/proc/self/fd/0")
		if err != nil {
			return err
		}
		fmt.Fprintln(e.Stdout, name)
	}
	return nil
}

// mode is a switch of stty.
type mode struct {
	name string
	word int // 0 iflag, 1 oflag, 2 cflag, 3 lflag
	bit  uint32
	sane bool // on after stty sane
}

var modes = [...]mode{
	{"parenb", 2, unix.PARENB, false}, {"parodd", 2, unix.PARODD, false}, {"hupcl", 2, unix.HUPCL, false},
	{"cstopb", 2, unix.CSTOPB, false}, {"cread", 2, unix.CREAD, true}, {"clocal", 2, unix.CLOCAL, false},
	{"crtscts", 2, unix.CRTSCTS, false},
	{"ignbrk", 0, unix.IGNBRK, false}, {"brkint", 0, unix.BRKINT, true}, {"ignpar", 0, unix.IGNPAR, false},
	{"parmrk", 0, unix.PARMRK, false}, {"inpck", 0, unix.INPCK, false}, {"istrip", 0, unix.ISTRIP, false},
	{"inlcr", 0, unix.INLCR, false}, {"igncr", 0, unix.IGNCR, false}, {"icrnl", 0, unix.ICRNL, true},
	{"ixon", 0, unix.IXON, true}, {"ixoff", 0, unix.IXOFF, false}, {"iuclc", 0, unix.IUCLC, false},
	{"ixany", 0, unix.IXANY, false}, {"imaxbel", 0, unix.IMAXBEL, true}, {"iutf8", 0, unix.IUTF8, false},
	{"opost", 1, unix.OPOST, true}, {"olcuc", 1, unix.OLCUC, false}, {"ocrnl", 1, unix.OCRNL, false},
	{"onlcr", 1, unix.ONLCR, true}, {"onocr", 1, unix.ONOCR, false}, {"onlret", 1, unix.ONLRET, false},
	{"ofill", 1, unix.OFILL, false}, {"ofdel", 1, unix.OFDEL, false},
	{"isig", 3, unix.ISIG, true}, {"icanon", 3, unix.ICANON, true}, {"iexten", 3, unix.IEXTEN, true},
	{"echo", 3, unix.ECHO, true}, {"echoe", 3, unix.ECHOE, true}, {"echok", 3, unix.ECHOK, true},
	{"echonl", 3, unix.ECHONL, false}, {"noflsh", 3, unix.NOFLSH, false}, {"xcase", 3, unix.XCASE, false},
	{"tostop", 3, unix.TOSTOP, false}, {"echoprt", 3, unix.ECHOPRT, false}, {"echoctl", 3, unix.ECHOCTL, true},
	{"echoke", 3, unix.ECHOKE, true}, {"flusho", 3, unix.FLUSHO, false},
}

// characters of stty; their defaults after stty sane.
var characters = [...]struct {
	name  string
	index int
	sane  byte
}{
	{"intr", unix.VINTR, 3}, {"quit", unix.VQUIT, 28}, {"erase", unix.VERASE, 127}, {"kill", unix.VKILL, 21},
	{"eof", unix.VEOF, 4}, {"eol", unix.VEOL, 0}, {"eol2", unix.VEOL2, 0}, {"start", unix.VSTART, 17},
	{"stop", unix.VSTOP, 19}, {"susp", unix.VSUSP, 26}, {"rprnt", unix.VREPRINT, 18}, {"werase", unix.VWERASE, 23},
	{"lnext", unix.VLNEXT, 22}, {"discard", unix.VDISCARD, 15},
}

func word(t *unix.Termios, i int) *uint32 {
	return [...]*uint32{&t.Iflag, &t.Oflag, &t.Cflag, &t.Lflag}[i]
}

func sane(t *unix.Termios) {
	for _, m := range modes {
		switch {
		case m.sane:
			*word(t, m.word) |= m.bit
		case m.word != 2:
			*word(t, m.word) &^= m.bit
		}
	}
	for _, c := range characters {
		t.Cc[c.index] = c.sane
	}
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
}

// Stty shows and sets the modes of a terminal.
func Stty(e *applet.Env, args []string) error {
	fd := 0
	var all, save bool
	for len(args) > 0 {
		switch {
		case args[0] == "--help":
			_, err := new(applet.Options).Parse(args)
			return err
		case args[0] == "-a" || args[0] == "--all":
			all, args = true, args[1:]
			continue
		case args[0] == "-g" || args[0] == "--save":
			save, args = true, args[1:]
			continue
		case args[0] == "-F" && len(args) > 1:
			f, err := os.OpenFile(args[1], os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			fd, args = int(f.Fd()), args[2:]
			continue
		}
		break
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("standard input: %s", applet.Reason(err))
	}
	if len(args) == 0 {
		return showTerminal(e, fd, t, all, save)
	}
	ws, wsErr := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	resized, changed := false, false
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch arg {
		case "size":
			if wsErr != nil {
				return wsErr
			}
			fmt.Fprintf(e.Stdout, "%d %d\n", ws.Row, ws.Col)
			continue
		case "speed":
			fmt.Fprintln(e.Stdout, speedOf(t))
			continue
		case "rows", "cols", "columns", "min", "time":
			if i++; i == len(args) {
				return applet.Usagef("missing argument to %s", applet.Quote(arg))
			}
			n, err := strconv.ParseUint(args[i], 10, 16)
			if err != nil || n > 255 && (arg == "min" || arg == "time") {
				return applet.Usagef("invalid integer argument %s", applet.Quote(args[i]))
			}
			switch arg {
			case "min":
				t.Cc[unix.VMIN], changed = byte(n), true
			case "time":
				t.Cc[unix.VTIME], changed = byte(n), true
			case "rows":
				ws, resized = sized(ws), true
				ws.Row = uint16(n)
			default:
				ws, resized = sized(ws), true
				ws.Col = uint16(n)
			}
			continue
		}
		changed = true
		used, err := setMode(t, arg, args[i+1:])
		if err != nil {
			return err
		}
		i += used
	}
	if changed {
		if err := unix.IoctlSetTermios(fd, unix.TCSETSW, t); err != nil {
			return err
		}
	}
	if resized {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws)
	}
	return nil
}

func sized(ws *unix.Winsize) *unix.Winsize {
	if ws == nil {
		return &unix.Winsize{}
	}
	return ws
}

// setMode applies one word, and returns how many of those behind it it took.
func setMode(t *unix.Termios, arg string, rest []string) (int, error) {
	name, off := strings.CutPrefix(arg, "-")
	for _, m := range modes {
		if m.name == name {
			if off {
				*word(t, m.word) &^= m.bit
			} else {
				*word(t, m.word) |= m.bit
			}
			return 0, nil
		}
	}
	for _, c := range characters {
		if c.name == arg {
			if len(rest) == 0 {
				return 0, applet.Usagef("missing argument to %s", applet.Quote(arg))
			}
			v, ok := control(rest[0])
			if !ok {
				return 0, applet.Usagef("invalid character %s", applet.Quote(rest[0]))
			}
			t.Cc[c.index] = v
			return 1, nil
		}
	}
	raw := func() {
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.IGNPAR | unix.PARMRK | unix.INPCK | unix.ISTRIP | unix.INLCR |
			unix.IGNCR | unix.ICRNL | unix.IXON | unix.IXOFF | unix.IUCLC | unix.IXANY | unix.IMAXBEL
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ISIG | unix.ICANON | unix.XCASE
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	}
	cooked := func() {
		t.Iflag |= unix.BRKINT | unix.IGNPAR | unix.ISTRIP | unix.ICRNL | unix.IXON
		t.Oflag |= unix.OPOST
		t.Lflag |= unix.ISIG | unix.ICANON
		t.Cc[unix.VEOF], t.Cc[unix.VEOL] = 4, 0
	}
	switch arg {
	case "sane":
		sane(t)
	case "raw", "-cooked":
		raw()
	case "cooked", "-raw":
		cooked()
	case "cbreak", "-icanon":
		t.Lflag &^= unix.ICANON
	case "-cbreak":
		t.Lflag |= unix.ICANON
	case "cs5", "cs6", "cs7", "cs8":
		t.Cflag = t.Cflag&^unix.CSIZE | uint32(arg[2]-'5')<<4
	default:
		if restore(t, arg) {
			return 0, nil
		}
		if n, err := strconv.Atoi(arg); err == nil {
			for _, s := range speeds {
				if s.baud == n {
					t.Cflag = t.Cflag&^unix.CBAUD | s.code
					t.Ispeed, t.Ospeed = uint32(n), uint32(n)
					return 0, nil
				}
			}
		}
		return 0, applet.Usagef("invalid argument %s", applet.Quote(arg))
	}
	return 0, nil
}

var speeds = [...]struct {
	baud int
	code uint32
}{
	{0, unix.B0}, {300, unix.B300}, {1200, unix.B1200}, {2400, unix.B2400}, {4800, unix.B4800}, {9600, unix.B9600},
	{19200, unix.B19200}, {38400, unix.B38400}, {57600, unix.B57600}, {115200, unix.B115200}, {230400, unix.B230400},
}

func speedOf(t *unix.Termios) int {
	for _, s := range speeds {
		if t.Cflag&unix.CBAUD == s.code {
			return s.baud
		}
	}
	return int(t.Ospeed)
}

// control reads ^C, ^-, undef, a character or a number.
func control(s string) (byte, bool) {
	switch {
	case s == "^-" || s == "undef":
		return 0, true
	case s == "^?":
		return 127, true
	case len(s) == 2 && s[0] == '^':
		return s[1] & 0x1f, true
	case len(s) == 1:
		return s[0], true
	}
	n, err := strconv.ParseUint(s, 0, 8)
	return byte(n), err == nil
}

func caret(c byte) string {
	switch {
	case c == 0:
		return "<undef>"
	case c == 127:
		return "^?"
	case c < 32:
		return "^" + string(rune(c+64))
	}
	return string(rune(c))
}

// restore takes what -g printed.
func restore(t *unix.Termios, s string) bool {
	f := strings.Split(s, ":")
	if len(f) != 4+len(t.Cc) {
		return false
	}
	var v []uint64
	for _, x := range f {
		n, err := strconv.ParseUint(x, 16, 32)
		if err != nil {
			return false
		}
		v = append(v, n)
	}
	for i := range 4 {
		*word(t, i) = uint32(v[i])
	}
	for i := range t.Cc {
		t.Cc[i] = byte(v[4+i])
	}
	return true
}

func showTerminal(e *applet.Env, fd int, t *unix.Termios, all, save bool) error {
	w := e.Stdout
	if save {
		fmt.Fprintf(w, "%x:%x:%x:%x", t.Iflag, t.Oflag, t.Cflag, t.Lflag)
		for _, c := range t.Cc {
			fmt.Fprintf(w, ":%x", c)
		}
		w.WriteByte('\n')
		return nil
	}
	fmt.Fprintf(w, "speed %d baud;", speedOf(t))
	if all {
		if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			fmt.Fprintf(w, " rows %d; columns %d;", ws.Row, ws.Col)
		}
	}
	fmt.Fprintf(w, " line = %d;\n", t.Line)
	line := ""
	put := func(s string, end bool) {
		if line != "" && len(line)+1+len(s) > 80 || end {
			if line != "" {
				w.WriteString(line + "\n")
			}
			line = ""
		}
		if s != "" && line != "" {
			line += " "
		}
		line += s
	}
	for _, c := range characters {
		if all || t.Cc[c.index] != c.sane {
			put(c.name+" = "+caret(t.Cc[c.index])+";", false)
		}
	}
	if all || t.Lflag&unix.ICANON == 0 {
		put(fmt.Sprintf("min = %d; time = %d;", t.Cc[unix.VMIN], t.Cc[unix.VTIME]), false)
	}
	put("", true)
	if all {
		put("cs"+string(rune('5'+t.Cflag&unix.CSIZE>>4)), false)
	}
	last := 2
	for _, m := range modes {
		if m.word != last && line != "" {
			put("", true)
		}
		last = m.word
		on := *word(t, m.word)&m.bit != 0
		switch {
		case all && on, !all && on && !m.sane && m.word != 2:
			put(m.name, false)
		case all, !on && m.sane:
			put("-"+m.name, false)
		}
	}
	put("", true)
	return nil
}
