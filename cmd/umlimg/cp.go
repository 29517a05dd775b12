package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/nameless"
	"github.com/umlkit/umlkit/rootfs/tree"
	"github.com/umlkit/umlkit/volume"
)

func cpCommand() *cli.Command {
	return &cli.Command{
		Name: "cp", Usage: "copy files into, out of and between images", Category: imageFiles, ArgsUsage: "SOURCE... DEST",
		Description: `umlimg cp -r ./site disk.img:/var/www
umlimg cp 'disk.img:/var/log/*.log' .
umlimg cp -a old.img:/home new.img#1:/`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "archive", Aliases: []string{"a"}, Usage: "as --recursive --preserve"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r", "R"}, Usage: "directories with all that is in them; symbolic links are copied"},
			&cli.BoolFlag{Name: "preserve", Aliases: []string{"p"}, Usage: "keep owners, modes, times, extended attributes"},
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` of the files in an image, by number or by a name from it"},
			&cli.BoolFlag{Name: "no-clobber", Aliases: []string{"n"}, Usage: "leave alone what is there"},
			&cli.BoolFlag{Name: "update", Aliases: []string{"u"}, Usage: "leave alone what is there and not older"},
			&cli.BoolFlag{Name: "no-target-directory", Aliases: []string{"T"}, Usage: "DEST is the copy, also where it is a directory"},
			&cli.BoolFlag{Name: "json", Usage: "print how many were copied as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, -1)
			if err != nil {
				return err
			}
			return cp(c, args[:len(args)-1], args[len(args)-1])
		},
	}
}

// copying is one run of cp.
type copying struct {
	c        *cli.Context
	s        *volumes
	preserve bool
	recurse  bool
	owner    *volume.Owner
	bar      *progress
	total    atomic.Int64
	done     atomic.Int64
	sum      filesSummary
}

func cp(c *cli.Context, from []string, to string) (err error) {
	dest := place{text: to, path: to}
	if to != "-" {
		dest = placeOf(to)
	}
	inside := dest.inImage()
	sources := make([]place, len(from))
	for i, text := range from {
		sources[i] = place{text: text, path: text}
		if text != "-" {
			sources[i] = placeOf(text)
		}
		inside = inside || sources[i].inImage()
		if to == "-" && !sources[i].inImage() || !dest.inImage() && !sources[i].inImage() {
			return usagef("cp: neither %s nor %s is in an image: one is to be IMAGE:/PATH", text, to)
		}
	}
	k := &copying{c: c, s: &volumes{write: dest.inImage()}, bar: newProgress(c.App.ErrWriter)}
	defer k.bar.finish()
	k.recurse = c.Bool("recursive") || c.Bool("archive")
	k.preserve = c.Bool("preserve") || c.Bool("archive")
	if c.IsSet("owner") && !dest.inImage() {
		return usagef("cp: --owner is for files in an image, and %s is none", to)
	}
	if c.Bool("json") && to == "-" {
		return usagef("cp: --json writes to stdout, and so does -")
	}
	return k.finish(k.run(sources, dest))
}

// finish makes everything stable, and says then what was copied.
func (k *copying) finish(err error) error {
	if err := named(k.c, k.s.close(err)); err != nil || !k.c.Bool("json") {
		return err
	}
	k.bar.finish()
	k.sum.Bytes = k.done.Load()
	return printJSON(k.c, &k.sum)
}

func (k *copying) run(sources []place, dest place) error {
	if dest.text == "-" {
		return k.toStdout(sources)
	}
	if !dest.inImage() {
		var err error
		if sources, err = k.s.expand(sources); err != nil {
			return err
		}
		return k.toHost(sources, dest)
	}
	v, err := k.s.get(dest)
	if err != nil {
		return err
	}
	if k.owner, err = ownerOption(k.c, v); err != nil {
		return err
	}
	k.s.write = false
	var all []place
	for _, p := range sources {
		if !p.inImage() {
			all = append(all, p)
			continue
		}
		more, err := k.s.expand([]place{p})
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	return k.toImage(v, all, dest)
}

// ownerOption is what --owner says, nil for nothing.
func ownerOption(c *cli.Context, v *volume.Volume) (*volume.Owner, error) {
	if !c.IsSet("owner") {
		return nil, nil
	}
	o, err := usersOf(v).parse(c.String("owner"))
	if err != nil {
		return nil, usagef("--owner: %w", err)
	}
	var owner volume.Owner
	if o.uid != nil {
		owner.UID = *o.uid
	}
	if o.gid != nil {
		owner.GID = *o.gid
	}
	return &owner, nil
}

func (k *copying) toStdout(sources []place) error {
	sources, err := k.s.expand(sources)
	if err != nil {
		return err
	}
	for _, p := range sources {
		if err := catFile(k.c.Context, k.s, p, k.c.App.Writer); err != nil {
			return err
		}
	}
	return nil
}

// lastName is the name that a copy gets in a directory; "" says that what is in the source
// goes there, for the source has none, as "/" or "dir/.".
func lastName(p string) string {
	if strings.HasSuffix(p, "/.") {
		return ""
	}
	switch name := path.Base(p); name {
	case "/", ".", "..":
		return ""
	default:
		return name
	}
}

// source reads what is to be copied. close is to be called when it was.
func (k *copying) source(p place) (n *tree.Node, close func() error, err error) {
	if p.inImage() {
		return k.imageSource(p)
	}
	return k.hostSource(p)
}

func (k *copying) imageSource(p place) (*tree.Node, func() error, error) {
	v, n, err := k.s.node(p, !k.recurse)
	if err != nil {
		return nil, nil, err
	}
	defer n.Close()
	if isDirectory(n) && !k.recurse {
		return nil, nil, fmt.Errorf("%s is a directory: -r copies it", p.text)
	}
	t, err := v.Read(k.c.Context, n, p.path)
	if err != nil {
		return nil, nil, p.at(err)
	}
	k.count(t)
	return t, func() error { return nil }, nil
}

// hostSource reads files of this machine. What is neither file nor directory is read as a
// stream, unless it is found in a directory.
func (k *copying) hostSource(p place) (*tree.Node, func() error, error) {
	name := p.path
	info, err := os.Lstat(name)
	if err == nil && (!k.recurse || strings.HasSuffix(name, "/")) {
		if name, err = filepath.EvalSymlinks(name); err == nil {
			info, err = os.Lstat(name)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() && !k.recurse {
		return nil, nil, fmt.Errorf("%s is a directory: -r copies it", p.text)
	}
	src := &hostdir.Source{Path: name, Skip: k.s.isDisk}
	if !info.IsDir() {
		src.Path, src.Only = filepath.Dir(name), filepath.Base(name)
	}
	t := tree.New()
	if err := src.Fill(k.c.Context, t, nil); err != nil {
		return nil, nil, errors.Join(err, src.Close())
	}
	n := t.Root
	if src.Only != "" {
		if n = t.Root.Take(src.Only); n == nil {
			return nil, nil, errors.Join(fmt.Errorf("%s is the image itself", p.text), src.Close())
		}
	}
	k.count(n)
	return n, src.Close, nil
}

// count adds a source to what is to be done.
func (k *copying) count(n *tree.Node) {
	sum := int64(0)
	k.sum.add(n.Mode, 1)
	add := func(n *tree.Node) {
		for _, r := range n.Runs() {
			sum += r.Len
		}
	}
	if n.IsDir() {
		_ = (&tree.Tree{Root: n}).Walk(func(_ string, _ *tree.Node, _ string, n *tree.Node, first bool) error {
			if first {
				k.sum.add(n.Mode, 1)
			}
			if first && n.IsRegular() {
				add(n)
			}
			return nil
		})
	} else if n.IsRegular() {
		add(n)
	}
	k.total.Add(sum)
}

func (k *copying) wrote(n int64) { k.bar.tell(k.done.Add(n), k.total.Load()) }

// target is where a copy goes.
type target struct {
	into bool // a directory that is there
	all  bool // what is in the source goes into it
	name string
}

// targetOf decides as cp(1) does.
func (k *copying) targetOf(p place, isDir bool, several int, dest place) (target, error) {
	name := lastName(p.path)
	switch {
	case k.c.Bool("no-target-directory") && several > 1:
		return target{}, usagef("--no-target-directory takes one source")
	case isDir && (k.c.Bool("no-target-directory") || name == ""):
		return target{into: true, all: true}, nil
	case isDir:
		if name == "-" && p.text == "-" {
			return target{}, fmt.Errorf("%s is a directory: name the file that standard input becomes", dest.text)
		}
		return target{into: true, name: name}, nil
	case several > 1 || strings.HasSuffix(dest.path, "/") && !k.recurse:
		return target{}, fmt.Errorf("%s is no directory", dest.text)
	}
	return target{}, nil
}

func (k *copying) toImage(v *volume.Volume, sources []place, dest place) error {
	if _, err := k.findDest(v, dest); err != nil {
		return err
	}
	for _, p := range sources {
		if err := k.oneToImage(v, p, len(sources), dest); err != nil {
			return err
		}
	}
	return nil
}

// findDest says whether the destination can be one at all, before anything is read.
func (k *copying) findDest(v *volume.Volume, dest place) (bool, error) {
	at, err := v.Walk(strings.TrimRight(dest.path, "/"), true)
	if err != nil {
		return false, dest.at(err)
	}
	defer at.Close()
	return at.IsDir(), nil
}

func (k *copying) oneToImage(v *volume.Volume, p place, several int, dest place) (err error) {
	at, err := v.Walk(strings.TrimRight(dest.path, "/"), true)
	if err != nil {
		return dest.at(err)
	}
	defer at.Close()
	to, err := k.targetOf(p, at.IsDir(), several, dest)
	if err != nil {
		return err
	}
	dir, name, where := at.Dir, at.Name, path.Dir(dest.path)
	if to.into {
		dir, name, where = at.Node, to.name, dest.path
	}
	w := k.writer(v)
	if stream, err := k.stream(p); stream != nil || err != nil {
		if err != nil {
			return err
		}
		defer stream.Close()
		k.sum.add(unix.S_IFREG, 1)
		return dest.at(w.Stream(k.c.Context, dir, where, name, stream))
	}
	n, done, err := k.source(p)
	if err != nil {
		return err
	}
	defer func() {
		if e := done(); err == nil {
			err = e
		}
	}()
	if to.all && n.IsDir() {
		k.sum.Directories-- // what is in it is copied
		return dest.targetError(w.PutAll(k.c.Context, dir, where, n))
	}
	if to.all {
		return dest.at(unix.EISDIR)
	}
	return dest.targetError(w.Put(k.c.Context, dir, where, name, n))
}

// targetError is an error of copying to a place, which can be one of what was copied.
func (p place) targetError(err error) error {
	var in *volume.PathError
	if errors.As(err, &in) {
		return p.at(err)
	}
	return err
}

func (k *copying) writer(v *volume.Volume) *volume.Writer {
	return &volume.Writer{V: v, Preserve: k.preserve, Owner: k.owner, NoClobber: k.c.Bool("no-clobber"), Update: k.c.Bool("update"), Wrote: k.wrote, Left: k.sum.left}
}

// stream opens a source that is read from its beginning to its end: standard input, a
// FIFO, a device. nil says that the source is none.
func (k *copying) stream(p place) (io.ReadCloser, error) {
	if p.inImage() {
		return nil, nil
	}
	if p.text == "-" {
		return interruptible(k.c.Context, io.NopCloser(k.c.App.Reader)), nil
	}
	if k.recurse {
		return nil, nil
	}
	return openStream(k.c.Context, p.path)
}

// openStream opens what is no regular file and no directory, and nil what is.
func openStream(ctx context.Context, name string) (io.ReadCloser, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() || info.IsDir() {
		return nil, nil
	}
	type opened struct {
		f   *os.File
		err error
	}
	ch := make(chan opened, 1)
	go func() { // a FIFO waits for who writes into it
		f, err := os.Open(name)
		ch <- opened{f, err}
	}()
	select {
	case o := <-ch:
		if o.err != nil {
			return nil, o.err
		}
		return interruptible(ctx, o.f), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *copying) toHost(sources []place, dest place) error {
	info, err := os.Stat(dest.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	isDir := err == nil && info.IsDir()
	if info != nil && k.s.holdsFile(info) {
		return fmt.Errorf("create %s: the disk is read from it", dest.path)
	}
	for _, p := range sources {
		to, err := k.targetOf(p, isDir, len(sources), dest)
		if err != nil {
			return err
		}
		if info != nil && !isDir && !info.Mode().IsRegular() {
			if err := k.toSpecial(p, dest.path); err != nil {
				return err
			}
			continue
		}
		n, done, err := k.source(p)
		if err != nil {
			return err
		}
		err = k.putHost(n, to, dest.path)
		if e := done(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putHost puts a tree into a directory of this machine.
func (k *copying) putHost(n *tree.Node, to target, dest string) error {
	w := &hostdir.Writer{
		Preserve: k.preserve, NoClobber: k.c.Bool("no-clobber"), Update: k.c.Bool("update"), Wrote: k.wrote, Left: k.sum.left,
		Keep:    k.s.holds,
		Skipped: func(path, why string) { warn(k.c, "%s is left out: %s", path, why) },
	}
	switch {
	case to.all && n.IsDir():
		k.sum.Directories--
		return w.PutAll(k.c.Context, dest, n)
	case to.all:
		return &os.PathError{Op: "write", Path: dest, Err: unix.EISDIR}
	case to.into:
		return w.Put(k.c.Context, dest, to.name, n)
	}
	// A link that was named is followed, also to where nothing is yet; those that the tree
	// makes are not.
	dest, err := nameless.Follow(filepath.Clean(dest))
	if err != nil {
		return &os.PathError{Op: "create", Path: dest, Err: err}
	}
	return w.Put(k.c.Context, filepath.Dir(dest), filepath.Base(dest), n)
}

// counter is told of how much was written.
type counter func(n int64)

func (c counter) Write(b []byte) (int, error) {
	c(int64(len(b)))
	return len(b), nil
}

// toSpecial writes a file into a device or a FIFO of this machine.
func (k *copying) toSpecial(p place, dest string) error {
	f, err := os.OpenFile(dest, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	k.sum.add(unix.S_IFREG, 1)
	err = catFile(k.c.Context, k.s, p, io.MultiWriter(f, counter(k.wrote)))
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
