package file

import (
	"strconv"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Test evaluates an expression: true is status 0, false 1, an error 2. Called
// as [ it wants a closing bracket.
func Test(e *applet.Env, args []string) error {
	if e.Name == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			return applet.Usagef("missing ']'")
		}
		args = args[:len(args)-1]
	}
	ok, err := testArgs(args)
	if err != nil {
		return err
	}
	if !ok {
		return applet.Status(1)
	}
	return nil
}

// testArgs decides by the number of arguments, as POSIX demands, so that
// operands may look like operators.
func testArgs(args []string) (bool, error) {
	switch len(args) {
	case 0:
		return false, nil
	case 1:
		return args[0] != "", nil
	case 2:
		if args[0] == "!" {
			return args[1] == "", nil
		}
		return unary(args[0], args[1])
	case 3:
		if binaryOp(args[1]) {
			return binary(args[0], args[1], args[2])
		}
		if args[0] == "!" {
			ok, err := testArgs(args[1:])
			return !ok, err
		}
		if args[0] == "(" && args[2] == ")" {
			return args[1] != "", nil
		}
	case 4:
		if args[0] == "!" {
			ok, err := testArgs(args[1:])
			return !ok, err
		}
	}
	p := &testParser{args: args}
	ok, err := p.or()
	if err == nil && len(p.args) > 0 {
		err = applet.Usagef("extra argument %s", applet.Quote(p.args[0]))
	}
	return ok, err
}

type testParser struct {
	args  []string
	depth int
}

func (p *testParser) or() (bool, error) {
	a, err := p.and()
	for err == nil && len(p.args) > 0 && p.args[0] == "-o" {
		p.args = p.args[1:]
		var b bool
		b, err = p.and()
		a = a || b
	}
	return a, err
}

func (p *testParser) and() (bool, error) {
	a, err := p.not()
	for err == nil && len(p.args) > 0 && p.args[0] == "-a" {
		p.args = p.args[1:]
		var b bool
		b, err = p.not()
		a = a && b
	}
	return a, err
}

func (p *testParser) not() (bool, error) {
	if len(p.args) == 0 {
		return false, applet.Usagef("argument expected")
	}
	if p.depth++; p.depth > maxParens {
		return false, applet.Usagef("expression nested too deeply")
	}
	defer func() { p.depth-- }()
	a := p.args
	switch {
	case len(a) >= 3 && binaryOp(a[1]):
		p.args = a[3:]
		return binary(a[0], a[1], a[2])
	case a[0] == "!":
		p.args = a[1:]
		ok, err := p.not()
		return !ok, err
	case a[0] == "(":
		p.args = a[1:]
		ok, err := p.or()
		if err == nil && (len(p.args) == 0 || p.args[0] != ")") {
			err = applet.Usagef("')' expected")
		}
		if err == nil {
			p.args = p.args[1:]
		}
		return ok, err
	case len(a) >= 2 && len(a[0]) == 2 && a[0][0] == '-' && a[1] != "-a" && a[1] != "-o" && a[1] != ")":
		p.args = a[2:]
		return unary(a[0], a[1])
	}
	p.args = a[1:]
	return a[0] != "", nil
}

func binaryOp(op string) bool {
	switch op {
	case "=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef":
		return true
	}
	return false
}

func binary(a, op, b string) (bool, error) {
	switch op {
	case "=", "==":
		return a == b, nil
	case "!=":
		return a != b, nil
	case "-nt", "-ot", "-ef":
		var x, y unix.Stat_t
		errX, errY := unix.Stat(a, &x), unix.Stat(b, &y)
		switch op {
		case "-nt":
			return errX == nil && (errY != nil || x.Mtim.Nano() > y.Mtim.Nano()), nil
		case "-ot":
			return errY == nil && (errX != nil || x.Mtim.Nano() < y.Mtim.Nano()), nil
		}
		return errX == nil && errY == nil && inodeOf(&x) == inodeOf(&y), nil
	}
	x, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return false, applet.Usagef("invalid integer %s", applet.Quote(a))
	}
	y, err := strconv.ParseInt(b, 10, 64)
	if err != nil {
		return false, applet.Usagef("invalid integer %s", applet.Quote(b))
	}
	switch op {
	case "-eq":
		return x == y, nil
	case "-ne":
		return x != y, nil
	case "-lt":
		return x < y, nil
	case "-le":
		return x <= y, nil
	case "-gt":
		return x > y, nil
	}
	return x >= y, nil
}

func unary(op, arg string) (bool, error) {
	switch op {
	case "-n":
		return arg != "", nil
	case "-z":
		return arg == "", nil
	case "-t":
		fd, err := strconv.Atoi(arg)
		if err != nil {
			return false, applet.Usagef("invalid integer %s", applet.Quote(arg))
		}
		return applet.IsTerminal(fd), nil
	case "-r":
		return unix.Faccessat(unix.AT_FDCWD, arg, unix.R_OK, unix.AT_EACCESS) == nil, nil
	case "-w":
		return unix.Faccessat(unix.AT_FDCWD, arg, unix.W_OK, unix.AT_EACCESS) == nil, nil
	case "-x":
		return unix.Faccessat(unix.AT_FDCWD, arg, unix.X_OK, unix.AT_EACCESS) == nil, nil
	}
	var st unix.Stat_t
	kind := func(bits uint32) (bool, error) {
		return unix.Stat(arg, &st) == nil && st.Mode&unix.S_IFMT == bits, nil
	}
	bit := func(bits uint32) (bool, error) {
		return unix.Stat(arg, &st) == nil && st.Mode&bits != 0, nil
	}
	switch op {
	case "-e":
		return unix.Stat(arg, &st) == nil, nil
	case "-f":
		return kind(unix.S_IFREG)
	case "-d":
		return kind(unix.S_IFDIR)
	case "-b":
		return kind(unix.S_IFBLK)
	case "-c":
		return kind(unix.S_IFCHR)
	case "-p":
		return kind(unix.S_IFIFO)
	case "-S":
		return kind(unix.S_IFSOCK)
	case "-h", "-L":
		return unix.Lstat(arg, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK, nil
	case "-s":
		return unix.Stat(arg, &st) == nil && st.Size > 0, nil
	case "-u":
		return bit(unix.S_ISUID)
	case "-g":
		return bit(unix.S_ISGID)
	case "-k":
		return bit(unix.S_ISVTX)
	case "-O":
		return unix.Stat(arg, &st) == nil && int(st.Uid) == unix.Geteuid(), nil
	case "-G":
		return unix.Stat(arg, &st) == nil && int(st.Gid) == unix.Getegid(), nil
	case "-N":
		return unix.Stat(arg, &st) == nil && st.Mtim.Nano() > st.Atim.Nano(), nil
	}
	return false, applet.Usagef("unary operator expected, not %s", applet.Quote(op))
}
