package file

import (
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// primary reads one test, option or action.
func (p *findParser) primary() (test, error) {
	f, name := p.f, p.next()
	switch name {
	case "-true":
		return always, nil
	case "-false":
		return func(*found) bool { return false }, nil
	case "-depth":
		f.post = true
		return always, nil
	case "-xdev", "-mount":
		f.xdev = true
		return always, nil
	case "-empty":
		return empty, nil
	case "-prune":
		return func(*found) bool { f.prune = true; return true }, nil
	case "-readable":
		return access(unix.R_OK), nil
	case "-writable":
		return access(unix.W_OK), nil
	case "-executable":
		return access(unix.X_OK), nil
	case "-nouser":
		return func(x *found) bool { return f.db.UserName(x.st.Uid) == strconv.Itoa(int(x.st.Uid)) }, nil
	case "-nogroup":
		return func(x *found) bool { return f.db.GroupName(x.st.Gid) == strconv.Itoa(int(x.st.Gid)) }, nil
	}
	if t, ok, err := p.actions(name); ok {
		p.action = true
		return t, err
	}
	arg, err := p.value(name)
	if err != nil {
		if strings.HasPrefix(name, "-") {
			return nil, err
		}
		return nil, applet.Usagef("unexpected %s", applet.Quote(name))
	}
	t, err := f.valued(name, arg)
	if err == errNumber {
		err = applet.Usagef("invalid argument %s to %s", applet.Quote(arg), applet.Quote(name))
	}
	return t, err
}

func (f *finder) valued(name, arg string) (test, error) {
	switch name {
	case "-maxdepth", "-mindepth":
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 {
			return nil, errNumber
		}
		if name == "-maxdepth" {
			f.max = n
		} else {
			f.min = n
		}
		return always, nil
	case "-name":
		return globTest(arg, false, func(x *found) string { return x.name })
	case "-iname":
		return globTest(arg, true, func(x *found) string { return x.name })
	case "-path", "-wholename":
		return globTest(arg, false, func(x *found) string { return x.path })
	case "-ipath", "-iwholename":
		return globTest(arg, true, func(x *found) string { return x.path })
	case "-lname":
		return globTest(arg, false, func(x *found) string { target, _ := os.Readlink(x.path); return target })
	case "-regex", "-iregex":
		if name == "-iregex" {
			arg = "(?i:" + arg + ")"
		}
		re, err := regexp.Compile("^(?:" + arg + ")$")
		if err != nil {
			return nil, applet.Usagef("%v", err)
		}
		return func(x *found) bool { return re.MatchString(x.path) }, nil
	case "-type":
		return typeTest(arg)
	case "-perm":
		return permTest(arg)
	case "-user":
		uid, ok := f.db.UID(arg)
		if !ok {
			return nil, applet.Usagef("%s is not the name of a known user", applet.Quote(arg))
		}
		return func(x *found) bool { return x.st.Uid == uid }, nil
	case "-group":
		gid, ok := f.db.GID(arg)
		if !ok {
			return nil, applet.Usagef("%s is not the name of an existing group", applet.Quote(arg))
		}
		return func(x *found) bool { return x.st.Gid == gid }, nil
	case "-uid":
		return numberTest(arg, 1, func(x *found) int64 { return int64(x.st.Uid) })
	case "-gid":
		return numberTest(arg, 1, func(x *found) int64 { return int64(x.st.Gid) })
	case "-links":
		return numberTest(arg, 1, func(x *found) int64 { return int64(x.st.Nlink) })
	case "-inum":
		return numberTest(arg, 1, func(x *found) int64 { return int64(x.st.Ino) })
	case "-size":
		return sizeTest(arg)
	case "-mtime", "-mmin":
		return f.ageTest(name, arg, func(x *found) unix.Timespec { return x.st.Mtim })
	case "-atime", "-amin":
		return f.ageTest(name, arg, func(x *found) unix.Timespec { return x.st.Atim })
	case "-ctime", "-cmin":
		return f.ageTest(name, arg, func(x *found) unix.Timespec { return x.st.Ctim })
	case "-newer", "-samefile":
		var st unix.Stat_t
		if err := unix.Stat(arg, &st); err != nil {
			return nil, &os.PathError{Op: "stat", Path: arg, Err: err}
		}
		if name == "-samefile" {
			return func(x *found) bool { return inodeOf(&x.st) == inodeOf(&st) }, nil
		}
		return func(x *found) bool { return x.st.Mtim.Nano() > st.Mtim.Nano() }, nil
	}
	return nil, applet.Usagef("unknown predicate %s", applet.Quote(name))
}

func globTest(pattern string, fold bool, of func(*found) string) (test, error) {
	re, err := globRegexp(pattern, fold)
	if err != nil {
		return nil, err
	}
	return func(x *found) bool { return re.MatchString(of(x)) }, nil
}

// globRegexp compiles a shell pattern in which * also matches a slash.
func globRegexp(pattern string, fold bool) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString("(?s")
	if fold {
		b.WriteByte('i')
	}
	b.WriteString(")^")
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		case '\\':
			if i+1 < len(pattern) {
				i++
			}
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		case '[':
			end := i + 1
			for end < len(pattern) && (pattern[end] != ']' || end == i+1 || end == i+2 && pattern[i+1] == '!') {
				end++
			}
			if end == len(pattern) {
				b.WriteString(`\[`)
				continue
			}
			set := pattern[i+1 : end]
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + strings.ReplaceAll(set, `\`, `\\`) + "]")
			i = end
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	b.WriteByte('$')
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, applet.Usagef("pattern %s: %v", applet.Quote(pattern), err)
	}
	return re, nil
}

func typeTest(list string) (test, error) {
	var kinds []uint32
	for k := range strings.SplitSeq(list, ",") {
		bits, ok := map[string]uint32{"f": unix.S_IFREG, "d": unix.S_IFDIR, "l": unix.S_IFLNK, "c": unix.S_IFCHR,
			"b": unix.S_IFBLK, "p": unix.S_IFIFO, "s": unix.S_IFSOCK}[k]
		if !ok {
			return nil, applet.Usagef("unknown argument to -type: %s", k)
		}
		kinds = append(kinds, bits)
	}
	return func(x *found) bool {
		for _, k := range kinds {
			if x.st.Mode&unix.S_IFMT == k {
				return true
			}
		}
		return false
	}, nil
}

func permTest(arg string) (test, error) {
	op := byte(0)
	if arg != "" && (arg[0] == '-' || arg[0] == '/') {
		op, arg = arg[0], arg[1:]
	}
	mode, err := parseMode(arg)
	if err != nil {
		return nil, err
	}
	want := mode.Apply(0, umask())
	return func(x *found) bool {
		perm := x.st.Mode & 0o7777
		switch op {
		case '-':
			return perm&want == want
		case '/':
			return want == 0 || perm&want != 0
		}
		return perm == want
	}, nil
}

// numberTest compares with N, +N (more) or -N (less), where of counts units.
func numberTest(arg string, unit int64, of func(*found) int64) (test, error) {
	op := byte(0)
	if arg != "" && (arg[0] == '-' || arg[0] == '+') {
		op, arg = arg[0], arg[1:]
	}
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil {
		return nil, errNumber
	}
	return func(x *found) bool {
		v := (of(x) + unit - 1) / unit
		switch op {
		case '+':
			return v > n
		case '-':
			return v < n
		}
		return v == n
	}, nil
}

func sizeTest(arg string) (test, error) {
	unit := int64(512)
	if arg == "" {
		return nil, errNumber
	}
	switch arg[len(arg)-1] {
	case 'c':
		unit = 1
	case 'w':
		unit = 2
	case 'b':
	case 'k':
		unit = 1 << 10
	case 'M':
		unit = 1 << 20
	case 'G':
		unit = 1 << 30
	default:
		arg += "b"
	}
	return numberTest(arg[:len(arg)-1], unit, func(x *found) int64 { return x.st.Size })
}

// ageTest compares the age in whole days or minutes.
func (f *finder) ageTest(name, arg string, of func(*found) unix.Timespec) (test, error) {
	unit := int64(24 * time.Hour)
	if strings.HasSuffix(name, "min") {
		unit = int64(time.Minute)
	}
	now := f.now.UnixNano()
	return numberTest(arg, 1, func(x *found) int64 {
		ts := of(x)
		age := now - ts.Nano()
		if age < 0 {
			return -1
		}
		if unit == int64(time.Minute) {
			return (age + unit - 1) / unit // minutes count from the next one, as GNU's do
		}
		return age / unit
	})
}

func access(mode uint32) test {
	return func(x *found) bool { return unix.Access(x.path, mode) == nil }
}

func empty(x *found) bool {
	switch x.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return x.st.Size == 0
	case unix.S_IFDIR:
		d, err := os.Open(x.path)
		if err != nil {
			return false
		}
		defer d.Close()
		names, _ := d.Readdirnames(1)
		return len(names) == 0
	}
	return false
}

// dirOf is the directory part of a path, as %h prints it.
func dirOf(p string) string {
	if !strings.Contains(p, "/") {
		return "."
	}
	return path.Dir(p)
}
