package main

import (
	"sync"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tree"
	"github.com/umlkit/umlkit/volume"
)

// filesSummary is what --json prints of commands that work on many files: how many of each
// kind were copied, packed or removed. A file of several names counts once where they are
// copied, each name where they are removed.
type filesSummary struct {
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	Others      int64 `json:"others"`
	// Left is what was left alone: for --no-clobber or --update, or as this machine cannot
	// have it.
	Left  int64 `json:"left"`
	Bytes int64 `json:"bytes"` // of content

	sync.Mutex `json:"-"`
}

// add counts a file of that mode.
func (s *filesSummary) add(mode uint32, by int64) {
	s.Lock()
	defer s.Unlock()
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Files += by
	case unix.S_IFDIR:
		s.Directories += by
	case unix.S_IFLNK:
		s.Symlinks += by
	default:
		s.Others += by
	}
}

// left takes one back that was left alone.
func (s *filesSummary) left(n *tree.Node) {
	s.add(n.Mode, -1)
	s.Lock()
	s.Left++
	s.Unlock()
}

// jsonChanged is the --json of commands that change a few files.
func jsonChanged() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print an array of the files as they are then, as stat does"}
}

// tell remembers a file that was changed, for --json.
func (s *volumes) tell(c *cli.Context, p place, full string, n volume.Node) {
	if !c.Bool("json") {
		return
	}
	v, err := s.get(p)
	if err == nil {
		s.changed = append(s.changed, infoOf(p, full, n, usersOf(v)))
	}
}

// tellPlace is tell for a file that is found again.
func (s *volumes) tellPlace(c *cli.Context, p place, follow bool) error {
	if !c.Bool("json") {
		return nil
	}
	_, n, err := s.node(p, follow)
	if err != nil {
		return err
	}
	s.tell(c, p, p.path, n)
	return n.Close()
}

// finish makes everything stable, and prints then what was changed.
func (s *volumes) finish(c *cli.Context, err error) error {
	if err := named(c, s.close(err)); err != nil || !c.Bool("json") {
		return err
	}
	if s.changed == nil {
		s.changed = []fileInfo{}
	}
	return printJSON(c, s.changed)
}
