package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/volume"
)

func editCommand() *cli.Command {
	return &cli.Command{
		Name: "edit", Usage: "edit a file of an image", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH",
		Description: `umlimg edit disk.img:/etc/fstab
EDITOR='sed -i s/foo/bar/' umlimg edit disk.img:/etc/hosts`,
		Flags: []cli.Flag{jsonChanged()},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			places, err := inImages(c, args, false)
			if err != nil {
				return err
			}
			s := &volumes{write: true}
			return s.finish(c, edit(c, s, places[0]))
		},
	}
}

// editMax bounds a file that is edited, in bytes.
const editMax = 1 << 30

// edit lets an editor change a copy, and puts that in the file's place when it differs.
// The disk is held for writing all the time, so that no machine changes the file
// meanwhile; nothing is written to it before there is a change.
func edit(c *cli.Context, s *volumes, p place) error {
	if _, err := s.device(p.disk); err != nil {
		return fmt.Errorf("%s: %w", p.image(), ofImage(p.disk, err))
	}
	s.write = false
	before, err := readEdited(s, p)
	if err != nil {
		return err
	}
	after, err := runEditor(c, path.Base(p.path), before)
	if err == nil && !bytes.Equal(before, after) {
		err = writeEdited(c, s, p, after)
	}
	if err != nil {
		return err
	}
	return s.tellPlace(c, p, true)
}

func readEdited(s *volumes, p place) ([]byte, error) {
	v, n, err := s.node(p, true)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	a := n.Attr()
	switch {
	case v.Ext4() == nil:
		u, err := v.Usage()
		if err != nil {
			return nil, err
		}
		return nil, p.at(&volume.ReadOnlyError{Type: u.Type})
	case a.Mode&format.ModeType == format.ModeDir:
		return nil, p.at(&volume.PathError{Path: p.path, Err: unix.EISDIR})
	case a.Mode&format.ModeType != format.ModeRegular:
		return nil, p.at(&volume.PathError{Path: p.path, Err: volume.ErrNotRegular})
	case a.Size > editMax:
		return nil, p.at(&volume.PathError{Path: p.path, Err: unix.EFBIG})
	}
	text, err := io.ReadAll(volume.NewReader(n))
	if err != nil {
		return nil, p.at(&volume.PathError{Path: p.path, Err: err})
	}
	return text, nil
}

// runEditor runs $VISUAL or $EDITOR, as the shell takes it, on a copy.
func runEditor(c *cli.Context, name string, text []byte) ([]byte, error) {
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	dir, err := os.MkdirTemp("", "umlimg-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// A name from an image is not for a command line: its ending tells the editor what it is.
	copyName := filepath.Join(dir, "file"+printable(path.Ext(name)))
	if err := os.WriteFile(copyName, text, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("sh", "-c", editor+` "$1"`, editor, copyName)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.App.Reader, unchecked(c.App.Writer), c.App.ErrWriter
	err = cmd.Run()
	if c.Context.Err() != nil {
		return nil, c.Context.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; the file stays as it was", editor, err)
	}
	f, err := os.Open(copyName)
	if err != nil {
		return nil, fmt.Errorf("%s left no file behind: %w; the file stays as it was", editor, withoutPath(err))
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, editMax))
}

// writeEdited opens the filesystem once more, to write.
func writeEdited(c *cli.Context, s *volumes, p place, text []byte) error {
	if err := s.forget(); err != nil {
		return err
	}
	s.write = true
	v, err := s.get(p)
	if err != nil {
		return err
	}
	at, err := v.Walk(p.path, true)
	if err != nil {
		return p.at(err)
	}
	defer at.Close()
	w := &volume.Writer{V: v}
	return p.targetError(w.Stream(c.Context, at.Dir, path.Dir(p.path), at.Name, bytes.NewReader(text)))
}

// forget closes the filesystems and keeps the disks.
func (s *volumes) forget() error {
	for _, o := range s.volumes {
		if err := o.v.Close(); err != nil {
			return err
		}
	}
	s.volumes = nil
	return nil
}
