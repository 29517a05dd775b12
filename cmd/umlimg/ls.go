package main

import (
	"bufio"
	"fmt"
	"path"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/filemode"
	"github.com/umlkit/umlkit/volume"
)

func lsCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list directories of an image", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH...",
		Description: `umlimg ls -l disk.img:/etc
umlimg ls 'disk.img#1:/boot/*.cfg'`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "names that begin with a dot too"},
			&cli.BoolFlag{Name: "directory", Aliases: []string{"d"}, Usage: "directories themselves, not what is in them"},
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "modes, owners, sizes and times"},
			&cli.BoolFlag{Name: "numeric", Aliases: []string{"n"}, Usage: "owners by number; as --long"},
			&cli.BoolFlag{Name: "human-readable", Aliases: []string{"h"}, Usage: "sizes with K, M, G"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "directories in directories too"},
			&cli.BoolFlag{Name: "json", Usage: "print an array of the files, as stat does"},
		},
		Action: func(c *cli.Context) error {
			return readVerb(c, 1, true, func(s *volumes, places []place) error { return ls(c, s, places) })
		},
	}
}

// lister lists files.
type lister struct {
	c     *cli.Context
	out   *bufio.Writer
	users map[*volume.Volume]*users
	json  []fileInfo
	first bool
}

func ls(c *cli.Context, s *volumes, places []place) error {
	l := &lister{c: c, out: bufio.NewWriter(c.App.Writer), users: map[*volume.Volume]*users{}, json: []fileInfo{}, first: true}
	var files, dirs []place
	for _, p := range places {
		_, n, err := s.node(p, !c.Bool("long") && !c.Bool("numeric"))
		if err != nil {
			return err
		}
		if isDirectory(n) && !c.Bool("directory") {
			dirs = append(dirs, p)
		} else {
			files = append(files, p)
		}
		n.Close()
	}
	var rows []row
	for _, p := range files {
		v, n, err := s.node(p, false)
		if err != nil {
			return err
		}
		rows = append(rows, row{p.path, l.info(v, p, p.path, n)})
		n.Close()
	}
	l.print(rows)
	for _, p := range dirs {
		v, n, err := s.node(p, true)
		if err != nil {
			return err
		}
		err = l.dir(v, p, n, p.path, len(places) > 1 || c.Bool("recursive"), nil)
		n.Close()
		if err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return printJSON(c, l.json)
	}
	return l.out.Flush()
}

type row struct {
	name string
	info fileInfo
}

func (l *lister) info(v *volume.Volume, p place, full string, n volume.Node) fileInfo {
	u := l.users[v]
	if u == nil {
		u = usersOf(v)
		l.users[v] = u
	}
	return infoOf(p, full, n, u)
}

func (l *lister) dir(v *volume.Volume, p place, n volume.Node, full string, title bool, above []uint64) error {
	if err := l.c.Context.Err(); err != nil {
		return err
	}
	for _, up := range above {
		if up == n.Number() {
			return p.at(&volume.PathError{Path: full, Err: fmt.Errorf("a directory lies in itself: %w", unix.EUCLEAN)})
		}
	}
	names, err := n.Names()
	if err != nil {
		return p.at(&volume.PathError{Path: full, Err: err})
	}
	if title && !l.c.Bool("json") {
		if !l.first {
			fmt.Fprintln(l.out)
		}
		fmt.Fprintf(l.out, "%s:%s:\n", p.image(), l.show(full))
	}
	var rows []row
	var below []string
	for _, name := range names {
		if name[0] == '.' && !l.c.Bool("all") {
			continue
		}
		child, err := n.Lookup(name)
		if err != nil {
			return p.at(&volume.PathError{Path: path.Join(full, name), Err: err})
		}
		rows = append(rows, row{name, l.info(v, p, path.Join(full, name), child)})
		if isDirectory(child) {
			below = append(below, name)
		}
		child.Close()
	}
	l.print(rows)
	l.first = false
	if !l.c.Bool("recursive") {
		return nil
	}
	for _, name := range below {
		child, err := n.Lookup(name)
		if err != nil {
			return p.at(&volume.PathError{Path: path.Join(full, name), Err: err})
		}
		err = l.dir(v, p, child, path.Join(full, name), true, append(above, n.Number()))
		child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) show(name string) string { return shown(l.c.App.Writer, name) }

func (l *lister) print(rows []row) {
	if l.c.Bool("json") {
		for _, r := range rows {
			l.json = append(l.json, r.info)
		}
		return
	}
	if len(rows) > 0 {
		l.first = false
	}
	numeric := l.c.Bool("numeric")
	if !l.c.Bool("long") && !numeric {
		for _, r := range rows {
			fmt.Fprintln(l.out, l.show(r.name))
		}
		return
	}
	lines := make([][5]string, len(rows))
	var width [5]int
	for k, r := range rows {
		i := r.info
		size := fmt.Sprint(i.Size)
		if l.c.Bool("human-readable") {
			size = sizeText(i.Size)
		}
		if i.Device != "" {
			size = i.Device
		}
		user, group := printable(i.User), printable(i.Group)
		if numeric || user == "" {
			user = fmt.Sprint(i.UID)
		}
		if numeric || group == "" {
			group = fmt.Sprint(i.GID)
		}
		lines[k] = [5]string{fmt.Sprint(i.Links), user, group, size, time.Unix(i.mtime.Sec, 0).Format("2006-01-02 15:04")}
		for j, s := range lines[k] {
			width[j] = max(width[j], utf8.RuneCountInString(s))
		}
	}
	for k, r := range rows {
		name := l.show(r.name)
		if r.info.Target != "" {
			name += " -> " + l.show(r.info.Target)
		}
		s := lines[k]
		fmt.Fprintf(l.out, "%s %*s %-*s %-*s %*s %s %s\n", filemode.String(uint32(r.info.mode)), width[0], s[0], width[1], s[1], width[2], s[2], width[3], s[3], s[4], name)
	}
}

func isDirectory(n volume.Node) bool { return n.Attr().Mode&format.ModeType == format.ModeDir }
