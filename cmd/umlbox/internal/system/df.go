package system

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/fstab"
	"golang.org/x/sys/unix"
)

// Df shows the space on file systems.
func Df(e *applet.Env, args []string) error {
	var all, human, inodes, showType, portable bool
	unit := int64(1024)
	var only, not []string
	base := int64(1024)
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.Func('h', "human-readable", func() { human, base = true, 1024 })
	o.Func('H', "si", func() { human, base = true, 1000 })
	o.Bool(&inodes, 'i', "inodes")
	o.Func('k', "", func() { unit = 1024 })
	o.Func('m', "", func() { unit = 1 << 20 })
	o.Bool(&portable, 'P', "portability")
	o.Bool(&showType, 'T', "print-type")
	o.Value('t', "type", func(s string) error { only = append(only, s); return nil })
	o.Value('x', "exclude-type", func(s string) error { not = append(not, s); return nil })
	o.Value('B', "block-size", func(s string) (err error) {
		if strings.Trim(s[:min(1, len(s))], "0123456789") != "" {
			s = "1" + s
		}
		unit, err = applet.Size(s)
		if err == nil && unit < 1 {
			err = applet.Usagef("invalid block size %s", applet.Quote(s))
		}
		return err
	})
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	mounts, err := fstab.Mounts()
	if err != nil {
		return err
	}
	shown := mounts
	if len(names) > 0 {
		shown = nil
		for _, name := range names {
			m, err := mountOf(mounts, name)
			if err != nil {
				e.Warn(err)
				continue
			}
			shown = append(shown, m)
		}
	}
	size := strconv.FormatInt(unit, 10) + "B-blocks"
	switch {
	case human:
		size = "Size"
	case portable:
		size = strconv.FormatInt(unit, 10) + "-blocks"
	case unit%(1<<20) == 0:
		size = strconv.FormatInt(unit>>20, 10) + "M-blocks"
	case unit%(1<<10) == 0:
		size = strconv.FormatInt(unit>>10, 10) + "K-blocks"
	}
	head := []string{"Filesystem", "Type", size, "Used", "Available", "Use%", "Mounted on"}
	switch {
	case inodes:
		head[2], head[3], head[4], head[5] = "Inodes", "IUsed", "IFree", "IUse%"
	case human:
		head[4] = "Avail"
	case portable:
		head[5] = "Capacity"
	}
	rows := [][]string{head}
	seen := map[uint64]bool{}
	for _, m := range shown {
		var st unix.Statfs_t
		var id unix.Stat_t
		if err := unix.Statfs(m.Target, &st); err != nil {
			if len(names) > 0 {
				e.Warnf("%s: %s", m.Target, applet.Reason(err))
			}
			continue
		}
		if len(names) == 0 && !all {
			// Of several mounts of one device the first counts; of those that
			// hide each other nothing more is known.
			if st.Blocks == 0 || unix.Stat(m.Target, &id) == nil && seen[uint64(id.Dev)] {
				continue
			}
			seen[uint64(id.Dev)] = true
		}
		if only != nil && !slices.Contains(only, m.Type) || slices.Contains(not, m.Type) {
			continue
		}
		rows = append(rows, dfRow(m, &st, inodes, func(n uint64) string {
			if inodes {
				if human {
					return file.Human(int64(n), base)
				}
				return strconv.FormatUint(n, 10)
			}
			bytes := n * uint64(max(st.Frsize, 1))
			if human {
				return file.Human(int64(bytes), base)
			}
			return strconv.FormatUint((bytes+uint64(unit)-1)/uint64(unit), 10)
		}))
	}
	if len(rows) == 1 {
		if e.Failed() {
			return nil
		}
		return fmt.Errorf("no file systems processed")
	}
	if !showType {
		for i := range rows {
			rows[i] = append(rows[i][:1:1], rows[i][2:]...)
		}
	}
	widths := []int{14, 4, 5, 5, 5, 4}
	if !showType {
		widths = []int{14, 5, 5, 5, 4}
	}
	writeTable(e, rows, widths, showType)
	return nil
}

// dfRow makes the cells of one file system.
func dfRow(m fstab.Entry, st *unix.Statfs_t, inodes bool, show func(uint64) string) []string {
	total, free, avail := st.Blocks, st.Bfree, st.Bavail
	if inodes {
		total, free, avail = st.Files, st.Ffree, st.Ffree
	}
	used := total - min(free, total)
	percent := "-"
	if used+avail > 0 {
		percent = strconv.FormatUint((used*100+used+avail-1)/(used+avail), 10) + "%"
	}
	return []string{m.Source, m.Type, show(total), show(used), show(avail), percent, m.Target}
}

// writeTable writes the first column (and the second, if it is text) to the
// left, the last as it is, the others to the right.
func writeTable(e *applet.Env, rows [][]string, widths []int, textSecond bool) {
	for _, row := range rows {
		for i := range widths {
			widths[i] = max(widths[i], len(row[i]))
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			switch {
			case i == len(row)-1:
				e.Stdout.WriteString(cell + "\n")
			case i == 0 || i == 1 && textSecond:
				fmt.Fprintf(e.Stdout, "%-*s ", widths[i], cell)
			default:
				fmt.Fprintf(e.Stdout, "%*s ", widths[i], cell)
			}
		}
	}
}

// mountOf finds the mount that a file is on: the last one of its device whose
// target is above it; a device that is mounted stands for its mount.
func mountOf(mounts []fstab.Entry, name string) (fstab.Entry, error) {
	var st, at unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fstab.Entry{}, fmt.Errorf("%s: %s", name, applet.Reason(err))
	}
	for _, m := range slices.Backward(mounts) {
		if st.Mode&unix.S_IFMT == unix.S_IFBLK && m.Source == name {
			return m, nil
		}
	}
	best := fstab.Entry{}
	for _, m := range mounts {
		if unix.Stat(m.Target, &at) == nil && at.Dev == st.Dev && len(m.Target) >= len(best.Target) && above(m.Target, name) {
			best = m
		}
	}
	if best.Target == "" {
		return best, fmt.Errorf("%s: cannot find its mount", name)
	}
	return best, nil
}

// above says whether dir is the file name or one of the directories it is in.
func above(dir, name string) bool {
	path, err := realPath(name)
	if err != nil {
		return true // no better knowledge than the device
	}
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// realPath is the path the kernel knows a file by.
func realPath(name string) (string, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd), buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Mountpoint says whether directories are mount points.
func Mountpoint(e *applet.Env, args []string) error {
	var quiet, device bool
	var o applet.Options
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&device, 'd', "fs-devno")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return applet.Usagef("one directory is needed")
	}
	var st unix.Stat_t
	if err := unix.Stat(names[0], &st); err != nil {
		if quiet {
			return applet.Status(1)
		}
		return fmt.Errorf("%s: %s", names[0], applet.Reason(err))
	}
	path, err := realPath(names[0])
	if err != nil {
		return err
	}
	mounts, err := fstab.Mounts()
	if err != nil {
		return err
	}
	is := slices.ContainsFunc(mounts, func(m fstab.Entry) bool { return m.Target == path })
	switch {
	case device && is:
		fmt.Fprintf(e.Stdout, "%d:%d\n", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	case quiet || device:
	case is:
		fmt.Fprintf(e.Stdout, "%s is a mountpoint\n", names[0])
	default:
		fmt.Fprintf(e.Stdout, "%s is not a mountpoint\n", names[0])
	}
	if !is {
		return applet.Status(32)
	}
	return nil
}
