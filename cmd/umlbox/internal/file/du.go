package file

import (
	"fmt"
	"os"
	"strconv"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

type usage struct {
	e        *applet.Env
	all      bool
	apparent bool
	human    bool
	xdev     bool
	follow   bool
	links    bool // count every link
	unit     int64
	depth    int
	dev      uint64
	seen     map[inode]bool
}

// Du adds up the space of files.
func Du(e *applet.Env, args []string) error {
	u := &usage{e: e, unit: 1024, depth: -1, seen: map[inode]bool{}}
	var summary, total bool
	var o applet.Options
	o.Bool(&u.all, 'a', "all")
	o.Bool(&u.apparent, 0, "apparent-size")
	o.Func('b', "bytes", func() { u.apparent, u.unit = true, 1 })
	o.Bool(&total, 'c', "total")
	o.Int(&u.depth, 'd', "max-depth")
	o.Bool(&u.human, 'h', "human-readable")
	o.Func('k', "", func() { u.unit = 1024 })
	o.Func('m', "", func() { u.unit = 1 << 20 })
	o.Bool(&u.links, 'l', "count-links")
	o.Bool(&u.follow, 'L', "dereference")
	o.Bool(&summary, 's', "summarize")
	o.Bool(&u.xdev, 'x', "one-file-system")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if summary {
		if u.all {
			return applet.Usagef("cannot both summarize and show all entries")
		}
		u.depth = 0
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	var sum int64
	for _, name := range names {
		var st unix.Stat_t
		if unix.Lstat(name, &st) == nil {
			u.dev = uint64(st.Dev)
		}
		sum += u.walk(name, 0)
	}
	if total {
		u.show(sum, "total")
	}
	return nil
}

// walk returns the bytes below path, showing what is wanted on the way.
func (u *usage) walk(path string, level int) int64 {
	var st unix.Stat_t
	stat := unix.Lstat
	if u.follow {
		stat = unix.Stat
	}
	if err := stat(path, &st); err != nil {
		u.e.Warnf("cannot access %s: %s", applet.Quote(path), applet.Reason(err))
		return 0
	}
	if u.xdev && uint64(st.Dev) != u.dev {
		return 0
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !u.links && (st.Nlink > 1 || dir) {
		if u.seen[inodeOf(&st)] {
			return 0
		}
		u.seen[inodeOf(&st)] = true
	}
	size := st.Blocks * 512
	if u.apparent {
		size = st.Size
		if dir {
			size = st.Size
		}
	}
	if dir {
		entries, err := os.ReadDir(path)
		if err != nil {
			u.e.Warnf("cannot read directory %s: %s", applet.Quote(path), applet.Reason(err))
		}
		for _, ent := range entries {
			size += u.walk(join(path, ent.Name()), level+1)
		}
	}
	if (u.depth < 0 || level <= u.depth) && (dir || u.all || level == 0) {
		u.show(size, path)
	}
	return size
}

func (u *usage) show(size int64, name string) {
	text := strconv.FormatInt((size+u.unit-1)/u.unit, 10)
	if u.human {
		text = Human(size, 1024)
	}
	fmt.Fprintf(u.e.Stdout, "%s\t%s\n", text, name)
}
