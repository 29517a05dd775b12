package file

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

type lister struct {
	e       *applet.Env
	db      account.Database
	now     time.Time
	all     bool // with . and ..
	almost  bool // with names that begin with a dot
	long    bool
	columns bool
	dirs    bool // directories themselves, not what is in them
	recurse bool
	reverse bool
	human   bool
	inode   bool
	blocks  bool
	numeric bool
	follow  bool
	noOwner bool
	noGroup bool
	full    bool
	sort    byte // 'n'ame, 't'ime, 'S'ize, 'X' extension, 'U' unsorted
	time    byte // 'm', 'a' or 'c'
	mark    byte // 'F', 'p' or 0
	hide    bool // a terminal gets ? for what it could take for a command
	width   int
	shown   bool // something was printed before: a blank line separates
}

// item is a file to be listed.
type item struct {
	name string // as shown
	path string
	st   unix.Stat_t
	link string
}

// Ls lists directories.
func Ls(e *applet.Env, args []string) error {
	l := &lister{e: e, sort: 'n', time: 'm', width: 80, now: time.Now()}
	if ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		l.columns, l.hide = true, true
		if ws.Col > 0 {
			l.width = int(ws.Col)
		}
	}
	var o applet.Options
	o.Bool(&l.all, 'a', "all")
	o.Bool(&l.almost, 'A', "almost-all")
	o.Func('l', "", func() { l.long = true })
	o.Func('1', "", func() { l.columns = false })
	o.Func('C', "", func() { l.columns, l.long = true, false })
	o.Bool(&l.dirs, 'd', "directory")
	o.Bool(&l.recurse, 'R', "recursive")
	o.Bool(&l.reverse, 'r', "reverse")
	o.Bool(&l.human, 'h', "human-readable")
	o.Bool(&l.inode, 'i', "inode")
	o.Bool(&l.blocks, 's', "size")
	o.Func('n', "numeric-uid-gid", func() { l.numeric, l.long = true, true })
	o.Bool(&l.follow, 'L', "dereference")
	o.Func('g', "", func() { l.noOwner, l.long = true, true })
	o.Func('o', "", func() { l.noGroup, l.long = true, true })
	o.Bool(&l.noGroup, 'G', "no-group")
	o.Func(0, "full-time", func() { l.full, l.long = true, true })
	o.Func('t', "", func() { l.sort = 't' })
	o.Func('S', "", func() { l.sort = 'S' })
	o.Func('X', "", func() { l.sort = 'X' })
	o.Func('U', "", func() { l.sort = 'U' })
	o.Func('u', "", func() { l.time = 'a' })
	o.Func('c', "", func() { l.time = 'c' })
	o.Func('F', "classify", func() { l.mark = 'F' })
	o.Func('p', "", func() { l.mark = 'p' })
	o.Func('q', "hide-control-chars", func() { l.hide = true })
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if l.long && !l.numeric {
		l.db = account.Load()
	}
	if l.time != 'm' && !l.long && l.sort == 'n' {
		l.sort = 't' // -u and -c alone sort by that time
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	l.operands(names)
	return nil
}

// operands lists first the files among names, then the directories' contents.
func (l *lister) operands(names []string) {
	var files, dirs []item
	for _, name := range names {
		it := item{name: name, path: name}
		// A symbolic link given by name is followed, unless it is itself shown.
		follow := l.follow || !l.long && !l.dirs && l.mark != 'F'
		if err := l.stat(&it, follow); err != nil {
			l.e.Warnf("cannot access %s: %s", applet.Quote(name), applet.Reason(err))
			continue
		}
		if it.st.Mode&unix.S_IFMT == unix.S_IFDIR && !l.dirs {
			dirs = append(dirs, it)
		} else {
			files = append(files, it)
		}
	}
	l.order(files)
	l.order(dirs)
	if len(files) > 0 {
		l.print(files)
		l.shown = true
	}
	for _, d := range dirs {
		l.directory(d.path, len(names) > 1 || l.recurse)
	}
}

func (l *lister) stat(it *item, follow bool) error {
	err := unix.ENOENT
	if follow {
		err, _ = unix.Stat(it.path, &it.st).(unix.Errno)
	}
	if !follow || err == unix.ENOENT { // a dangling link is shown as itself
		if err := unix.Lstat(it.path, &it.st); err != nil {
			return err
		}
	} else if err != 0 {
		return err
	}
	if it.st.Mode&unix.S_IFMT == unix.S_IFLNK && (l.long || l.mark == 'F') {
		it.link, _ = os.Readlink(it.path)
	}
	return nil
}

func (l *lister) directory(dir string, title bool) {
	if l.shown {
		l.e.Stdout.WriteByte('\n')
	}
	f, err := os.Open(dir)
	if err != nil {
		l.e.Warnf("cannot open directory %s: %s", applet.Quote(dir), applet.Reason(err))
		return
	}
	if title {
		l.e.Stdout.WriteString(dir + ":\n")
	}
	l.shown = true
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		l.e.Warnf("reading directory %s: %s", applet.Quote(dir), applet.Reason(err))
	}
	if l.all {
		names = append(names, ".", "..")
	}
	var items []item
	for _, name := range names {
		if name[0] == '.' && !l.all && !l.almost {
			continue
		}
		it := item{name: name, path: join(dir, name)}
		if l.needStat() {
			if err := l.stat(&it, l.follow); err != nil {
				l.e.Warnf("cannot access %s: %s", applet.Quote(it.path), applet.Reason(err))
				continue
			}
		}
		items = append(items, it)
	}
	l.order(items)
	if l.long || l.blocks {
		var total int64
		for i := range items {
			total += items[i].st.Blocks
		}
		l.e.Stdout.WriteString("total " + l.size((total+1)/2, total*512) + "\n")
	}
	l.print(items)
	if !l.recurse {
		return
	}
	for _, it := range items {
		if it.st.Mode&unix.S_IFMT == unix.S_IFDIR && it.name != "." && it.name != ".." {
			l.directory(it.path, true)
		}
	}
}

// needStat says whether more than the name of an entry is wanted.
func (l *lister) needStat() bool {
	return l.long || l.recurse || l.inode || l.blocks || l.mark != 0 || l.sort == 't' || l.sort == 'S'
}

func (l *lister) order(items []item) {
	if l.sort == 'U' {
		return
	}
	slices.SortFunc(items, func(a, b item) int {
		n := 0
		switch l.sort {
		case 't':
			n = l.stamp(&b).Compare(l.stamp(&a))
		case 'S':
			n = cmp.Compare(b.st.Size, a.st.Size)
		case 'X':
			n = strings.Compare(filepath.Ext(a.name), filepath.Ext(b.name))
		}
		if n == 0 {
			n = strings.Compare(a.name, b.name)
		}
		if l.reverse {
			n = -n
		}
		return n
	})
}

func (l *lister) stamp(it *item) time.Time {
	ts := it.st.Mtim
	switch l.time {
	case 'a':
		ts = it.st.Atim
	case 'c':
		ts = it.st.Ctim
	}
	return time.Unix(ts.Unix())
}

func join(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}
