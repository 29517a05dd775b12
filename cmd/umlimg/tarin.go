package main

import (
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tarball"
	"github.com/umlkit/umlkit/rootfs/tree"
	"github.com/umlkit/umlkit/volume"
)

func tarInCommand() *cli.Command {
	return &cli.Command{
		Name: "tar-in", Usage: "unpack a tar archive into an image", Category: imageFiles, ArgsUsage: "[ARCHIVE|-] IMAGE[#N]:/PATH",
		Description: `umlimg tar-in app.tar.xz disk.img:/opt/app
docker export box | umlimg tar-in disk.img:/`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` of all, by number or by a name from the image; else as the archive says"},
			&cli.BoolFlag{Name: "json", Usage: "print how many were unpacked as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 2)
			if err != nil {
				return err
			}
			archive := "-"
			if len(args) > 1 {
				archive, args = args[0], args[1:]
			}
			places, err := inImages(c, args, false)
			if err != nil {
				return err
			}
			s := &volumes{write: true}
			k := &copying{c: c, s: s, bar: newProgress(c.App.ErrWriter)}
			defer k.bar.finish()
			return k.finish(tarIn(k, archive, places[0]))
		},
	}
}

func tarIn(k *copying, archive string, dest place) (err error) {
	c, s := k.c, k.s
	v, err := s.get(dest)
	if err != nil {
		return err
	}
	owner, err := ownerOption(c, v)
	if err != nil {
		return err
	}
	dir, err := v.Find(strings.TrimRight(dest.path, "/"), true)
	if err != nil {
		return dest.at(err)
	}
	defer dir.Close()
	if !isDirectory(dir) {
		return dest.at(&volume.PathError{Path: dest.path, Err: unix.ENOTDIR})
	}
	src := &tarball.Source{Path: archive, Stdin: c.App.Reader}
	defer src.Close()
	tell := func(n int64) {
		k.done.Add(n)
		k.bar.tell(src.Progress())
	}
	store := &volume.Store{V: v, Wrote: tell}
	defer func() {
		if e := store.Close(); err == nil {
			err = e
		}
	}()
	t := tree.New()
	if err := src.Fill(c.Context, t, store); err != nil {
		return err
	}
	k.count(t.Root)
	k.sum.Directories-- // what is in it is unpacked
	w := &volume.Writer{V: v, Preserve: true, Overlay: true, Owner: owner, Wrote: func(n int64) { k.done.Add(n) }}
	return dest.targetError(w.PutAll(c.Context, dir, dest.path, t.Root))
}
