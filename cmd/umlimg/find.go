package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
)

func findCommand() *cli.Command {
	return &cli.Command{
		Name: "find", Usage: "find files in an image", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH... [TEST]...",
		Description: `umlimg find disk.img:/usr -name '*.so' -size +1M
umlimg find disk.img:/ -type f -perm /6000 -print0`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "the name matches a `pattern` of the shell's"},
			&cli.StringFlag{Name: "iname", Usage: "as name, in any case (`pattern`)"},
			&cli.StringFlag{Name: "path", Usage: "the whole path matches a `pattern`, whose * takes slashes too"},
			&cli.StringFlag{Name: "type", Usage: "the file is one of `types`: f, d, l, c, b, p, s, with commas between"},
			&cli.StringFlag{Name: "size", Usage: "`[+-]n[ckMG]`: more than, less than or n units of 512 bytes, or of bytes (c), K, M, G, rounded up"},
			&cli.StringFlag{Name: "newer", Usage: "modified after a `file`, of the image (IMAGE:/PATH) or of this machine"},
			&cli.StringFlag{Name: "mtime", Usage: "`[+-]n`: modified more than, less than or n days ago"},
			&cli.StringFlag{Name: "user", Usage: "owned by a `user`, number or name from the image"},
			&cli.StringFlag{Name: "group", Usage: "of a `group`, number or name from the image"},
			&cli.StringFlag{Name: "perm", Usage: "`mode`, octal: exactly; -mode: all of its bits; /mode: any of them"},
			&cli.StringFlag{Name: "links", Usage: "`[+-]n` names"},
			&cli.StringFlag{Name: "inum", Usage: "inode `n`"},
			&cli.BoolFlag{Name: "empty", Usage: "files and directories with nothing in them"},
			&cli.IntFlag{Name: "maxdepth", Value: -1, Usage: "go down at most `n` levels"},
			&cli.IntFlag{Name: "mindepth", Usage: "leave out the first `n` levels"},
			&cli.BoolFlag{Name: "print0", Usage: "a NUL behind each path, not a line end"},
			&cli.BoolFlag{Name: "json", Usage: "print an array of the files, as stat does"},
		},
		Action: find,
	}
}

// finding is one run of find.
type finding struct {
	c     *cli.Context
	out   *bufio.Writer
	get   func(name string) (string, bool)
	on    func(name string) bool
	tests []func(full string, n volume.Node) (bool, error)
	users *users
	depth [2]int // least, most
	json  []fileInfo
}

// find takes tests behind the paths, where find(1) has them, as well as before.
func find(c *cli.Context) error {
	contexts := []*cli.Context{c}
	var paths []string
	for rest := c.Args().Slice(); len(rest) > 0; {
		if len(rest[0]) < 2 || rest[0][0] != '-' {
			paths, rest = append(paths, rest[0]), rest[1:]
			continue
		}
		set := flag.NewFlagSet(c.Command.Name, flag.ContinueOnError)
		set.SetOutput(io.Discard)
		for _, f := range c.Command.Flags {
			if err := f.Apply(set); err != nil {
				return err
			}
		}
		if err := set.Parse(rest); err != nil {
			return badUsage(c, err, true)
		}
		rest = set.Args()
		contexts = append(contexts, cli.NewContext(c.App, set, c))
	}
	if len(paths) == 0 {
		return usagef("find: usage: %s %s", c.Command.HelpName, c.Command.ArgsUsage)
	}
	places, err := inImages(c, paths, true)
	if err != nil {
		return err
	}
	f := &finding{c: c, out: bufio.NewWriter(c.App.Writer), json: []fileInfo{}}
	last := func(name string) *cli.Context {
		for i := len(contexts) - 1; i > 0; i-- {
			for _, set := range contexts[i].LocalFlagNames() {
				if set == name {
					return contexts[i]
				}
			}
		}
		return c
	}
	f.get = func(name string) (string, bool) {
		at := last(name)
		return at.String(name), at.IsSet(name)
	}
	f.on = func(name string) bool { return last(name).Bool(name) }
	f.depth = [2]int{last("mindepth").Int("mindepth"), last("maxdepth").Int("maxdepth")}
	if last("maxdepth").IsSet("maxdepth") && f.depth[1] < 0 || f.depth[0] < 0 {
		return usagef("find: a depth below 0")
	}
	s := &volumes{}
	return named(c, s.close(f.run(s, places)))
}

func (f *finding) run(s *volumes, places []place) error {
	places, err := s.expand(places)
	if err != nil {
		return err
	}
	for _, p := range places {
		v, n, err := s.node(p, false)
		if err != nil {
			return err
		}
		f.users = usersOf(v)
		if f.tests, err = f.compile(s); err == nil {
			err = f.walk(p, n, p.path, 0, nil)
		}
		n.Close()
		if err != nil {
			return p.targetError(err)
		}
	}
	if f.on("json") {
		return printJSON(f.c, f.json)
	}
	return f.out.Flush()
}

func (f *finding) walk(p place, n volume.Node, full string, depth int, above []uint64) error {
	if err := f.c.Context.Err(); err != nil {
		return err
	}
	if depth >= f.depth[0] {
		if err := f.test(p, n, full); err != nil {
			return err
		}
	}
	if !isDirectory(n) || f.depth[1] >= 0 && depth >= f.depth[1] {
		return nil
	}
	fail := func(path string, err error) error { return &volume.PathError{Path: path, Err: err} }
	for _, up := range above {
		if up == n.Number() {
			return fail(full, fmt.Errorf("a directory lies in itself: %w", unix.EUCLEAN))
		}
	}
	names, err := n.Names()
	if err != nil {
		return fail(full, err)
	}
	for _, name := range names {
		below := path.Join(full, name)
		child, err := n.Lookup(name)
		if err != nil {
			return fail(below, err)
		}
		err = f.walk(p, child, below, depth+1, append(above, n.Number()))
		child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *finding) test(p place, n volume.Node, full string) error {
	for _, t := range f.tests {
		ok, err := t(full, n)
		if err != nil {
			return &volume.PathError{Path: full, Err: err}
		}
		if !ok {
			return nil
		}
	}
	var err error
	switch {
	case f.on("json"):
		f.json = append(f.json, infoOf(p, full, n, f.users))
	case f.on("print0"):
		_, err = fmt.Fprintf(f.out, "%s\x00", full)
	default:
		_, err = fmt.Fprintln(f.out, shown(f.c.App.Writer, full))
	}
	return err
}

// relation is a number with + for more than it and - for less.
type relation struct {
	sign byte
	n    int64
}

func parseRelation(text string) (relation, error) {
	c := relation{}
	if text != "" && (text[0] == '+' || text[0] == '-') {
		c.sign, text = text[0], text[1:]
	}
	n, err := strconv.ParseUint(text, 10, 62)
	c.n = int64(n)
	return c, err
}

func (c relation) match(n int64) bool {
	switch c.sign {
	case '+':
		return n > c.n
	case '-':
		return n < c.n
	}
	return n == c.n
}

// compile makes tests of the options.
func (f *finding) compile(s *volumes) (tests []func(string, volume.Node) (bool, error), err error) {
	add := func(t func(full string, n volume.Node) bool) {
		tests = append(tests, func(full string, n volume.Node) (bool, error) { return t(full, n), nil })
	}
	if pattern, ok := f.get("name"); ok {
		add(func(full string, _ volume.Node) bool { return volume.Match(pattern, path.Base(full)) })
	}
	if pattern, ok := f.get("iname"); ok {
		pattern = strings.ToLower(pattern)
		add(func(full string, _ volume.Node) bool { return volume.Match(pattern, strings.ToLower(path.Base(full))) })
	}
	if pattern, ok := f.get("path"); ok {
		// A slash is a letter like any other here.
		swap := strings.NewReplacer("/", "\x01")
		pattern = swap.Replace(pattern)
		add(func(full string, _ volume.Node) bool { return volume.Match(pattern, swap.Replace(full)) })
	}
	if types, ok := f.get("type"); ok {
		letters := map[string]uint16{
			"f": format.ModeRegular, "d": format.ModeDir, "l": format.ModeSymlink, "c": format.ModeChar, "b": format.ModeBlock, "p": format.ModeFIFO, "s": format.ModeSocket,
		}
		want := map[uint16]bool{}
		for _, t := range strings.Split(types, ",") {
			if letters[t] == 0 {
				return nil, usagef("-type %q: f, d, l, c, b, p, s", types)
			}
			want[letters[t]] = true
		}
		add(func(_ string, n volume.Node) bool { return want[n.Attr().Mode&format.ModeType] })
	}
	if size, ok := f.get("size"); ok {
		unit := int64(512)
		text := size
		if i := len(text) - 1; i >= 0 {
			if u, ok := (map[byte]int64{'b': 512, 'c': 1, 'w': 2, 'k': 1 << 10, 'M': 1 << 20, 'G': 1 << 30})[text[i]]; ok {
				unit, text = u, text[:i]
			}
		}
		c, err := parseRelation(text)
		if err != nil {
			return nil, usagef("-size %q: a number, + or - before it, c, k, M or G behind it", size)
		}
		add(func(_ string, n volume.Node) bool { return c.match((n.Attr().Size + unit - 1) / unit) })
	}
	for _, o := range []struct {
		name string
		of   func(a volume.Attr) int64
	}{
		{"mtime", func(a volume.Attr) int64 { return (time.Now().Unix() - a.Mtime.Sec) / 86400 }},
		{"links", func(a volume.Attr) int64 { return int64(a.Links) }},
	} {
		if text, ok := f.get(o.name); ok {
			c, err := parseRelation(text)
			if err != nil {
				return nil, usagef("-%s %q: a number, + or - before it", o.name, text)
			}
			add(func(_ string, n volume.Node) bool { return c.match(o.of(n.Attr())) })
		}
	}
	if text, ok := f.get("inum"); ok {
		c, err := parseRelation(text)
		if err != nil {
			return nil, usagef("-inum %q: a number", text)
		}
		add(func(_ string, n volume.Node) bool { return c.match(int64(n.Number())) })
	}
	for _, o := range []struct {
		name string
		ids  map[string]uint32
		of   func(a volume.Attr) uint32
	}{{"user", f.users.ids, func(a volume.Attr) uint32 { return a.UID }}, {"group", f.users.gids, func(a volume.Attr) uint32 { return a.GID }}} {
		if text, ok := f.get(o.name); ok {
			id, have := o.ids[text]
			if !have {
				if id, err = parseID(text); err != nil {
					return nil, usagef("-%s %q is neither a number nor in the image", o.name, text)
				}
			}
			add(func(_ string, n volume.Node) bool { return o.of(n.Attr()) == id })
		}
	}
	if text, ok := f.get("perm"); ok {
		bits, err := strconv.ParseUint(strings.TrimLeft(text, "-/"), 8, 16)
		if err != nil || bits > format.ModePerm {
			return nil, usagef("-perm %q: an octal mode, - or / before it", text)
		}
		want := uint16(bits)
		add(func(_ string, n volume.Node) bool {
			have := n.Attr().Mode & format.ModePerm
			switch text[0] {
			case '-':
				return have&want == want
			case '/':
				return want == 0 || have&want != 0
			}
			return have == want
		})
	}
	if f.on("empty") {
		tests = append(tests, func(_ string, n volume.Node) (bool, error) {
			switch n.Attr().Mode & format.ModeType {
			case format.ModeDir:
				names, err := n.Names()
				return len(names) == 0, err
			case format.ModeRegular:
				return n.Attr().Size == 0, nil
			}
			return false, nil
		})
	}
	if name, ok := f.get("newer"); ok {
		than, err := modified(s, name)
		if err != nil {
			return nil, err
		}
		add(func(_ string, n volume.Node) bool {
			m := n.Attr().Mtime
			return time.Unix(m.Sec, int64(m.Nsec)).After(than)
		})
	}
	return tests, nil
}

// modified is when a file was changed last.
func modified(s *volumes, name string) (time.Time, error) {
	p := placeOf(name)
	if !p.inImage() {
		info, err := os.Stat(name)
		if err != nil {
			return time.Time{}, err
		}
		return info.ModTime(), nil
	}
	_, n, err := s.node(p, true)
	if err != nil {
		return time.Time{}, err
	}
	defer n.Close()
	m := n.Attr().Mtime
	return time.Unix(m.Sec, int64(m.Nsec)), nil
}
