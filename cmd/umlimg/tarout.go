package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tarball"
	"github.com/umlkit/umlkit/rootfs/tree"
)

func tarOutCommand() *cli.Command {
	return &cli.Command{
		Name: "tar-out", Usage: "write files of an image as a tar archive", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH [ARCHIVE|-]",
		Description: `umlimg tar-out disk.img:/ root.tar.zst
umlimg tar-out disk.img:/etc | tar -tv`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "compress", Usage: "`format`: gzip, zstd or none; else what the archive's name says, as .tar.gz, .tgz, .tar.zst"},
			&cli.BoolFlag{Name: "json", Usage: "print how many were packed as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 2)
			if err != nil {
				return err
			}
			places, err := inImages(c, args[:1], true)
			if err != nil {
				return err
			}
			archive := "-"
			if len(args) > 1 {
				archive = args[1]
			}
			if archive == "-" && c.Bool("json") {
				return usagef("tar-out: --json writes to stdout, and so does the archive: name a file")
			}
			k := &copying{c: c, s: &volumes{}, bar: newProgress(c.App.ErrWriter)}
			defer k.bar.finish()
			return k.finish(tarOut(k, places[0], archive))
		},
	}
}

func tarOut(k *copying, p place, archive string) error {
	c, s := k.c, k.s
	packed, err := compressionOf(c.String("compress"), archive)
	if err != nil {
		return err
	}
	if archive == "-" && isTerminal(c.App.Writer) {
		return usagef("an archive is not for a terminal: name a file, or write to a pipe")
	}
	v, n, err := s.node(p, true)
	if err == nil && archive != "-" {
		if info, e := os.Stat(archive); e == nil && s.holdsFile(info) {
			n.Close()
			return fmt.Errorf("create %s: the disk is read from it", archive)
		}
	}
	if err != nil {
		return err
	}
	defer n.Close()
	t, err := v.Read(c.Context, n, p.path)
	if err != nil {
		return p.at(err)
	}
	k.count(t)
	name := path.Base(p.path)
	return writeWhole(c, archive, func(w io.Writer) error {
		return packTo(w, packed, func(w io.Writer) error {
			tw := &tarball.Writer{W: w, Wrote: k.wrote, Skipped: func(path, why string) {
				k.sum.left(&tree.Node{Mode: unix.S_IFSOCK})
				warn(c, "%s is left out: %s", path, why)
			}}
			return tw.Write(c.Context, name, t)
		})
	})
}

func compressionOf(option, archive string) (string, error) {
	switch option {
	case "none", "gzip", "zstd":
		return option, nil
	case "gz":
		return "gzip", nil
	case "zst":
		return "zstd", nil
	case "":
	default:
		return "", usagef("--compress %q: gzip, zstd or none", option)
	}
	for _, s := range []struct{ suffix, format string }{{".gz", "gzip"}, {".tgz", "gzip"}, {".zst", "zstd"}, {".tzst", "zstd"}} {
		if strings.HasSuffix(archive, s.suffix) {
			return s.format, nil
		}
	}
	for _, suffix := range []string{".xz", ".txz", ".bz2", ".tbz", ".tbz2"} {
		if strings.HasSuffix(archive, suffix) {
			return "", usagef("%s: archives are packed by gzip or zstd; --compress none and a pipe do for others", archive)
		}
	}
	return "none", nil
}

// packTo packs what is written.
func packTo(w io.Writer, format string, write func(io.Writer) error) error {
	buffered := bufio.NewWriterSize(w, 256<<10)
	var packer io.WriteCloser
	var err error
	switch format {
	case "gzip":
		packer = gzip.NewWriter(buffered)
	case "zstd":
		packer, err = zstd.NewWriter(buffered)
	}
	if err != nil {
		return err
	}
	if packer == nil {
		err = write(buffered)
	} else {
		err = write(packer)
		if e := packer.Close(); err == nil {
			err = e
		}
	}
	if e := buffered.Flush(); err == nil {
		err = e
	}
	return err
}
