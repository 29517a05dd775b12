package main

import (
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/filemode"
	"github.com/umlkit/umlkit/volume"
)

func statCommand() *cli.Command {
	return &cli.Command{
		Name: "stat", Usage: "show what an image knows about files", Category: imageFiles, ArgsUsage: "IMAGE[#N]:/PATH...",
		Description: `umlimg stat disk.img:/etc/passwd
umlimg stat --json disk.img:/bin/ping`,
		UseShortOptionHandling: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dereference", Aliases: []string{"L"}, Usage: "what a symbolic link leads to, not the link"},
			&cli.BoolFlag{Name: "json", Usage: "print an array of the files"},
		},
		Action: func(c *cli.Context) error {
			return readVerb(c, 1, true, func(s *volumes, places []place) error { return stat(c, s, places) })
		},
	}
}

// fileInfo is a file in --json.
type fileInfo struct {
	Image  string            `json:"image"`
	Path   string            `json:"path"`
	Inode  uint64            `json:"inode"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // octal
	Links  uint32            `json:"links"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	User   string            `json:"user,omitempty"`  // names that the image itself gives
	Group  string            `json:"group,omitempty"` //
	Size   int64             `json:"size"`
	Blocks int64             `json:"blocks"` // of 512 bytes
	Device string            `json:"device,omitempty"`
	Target string            `json:"target,omitempty"`
	Mtime  string            `json:"mtime"`
	Atime  string            `json:"atime"`
	Ctime  string            `json:"ctime"`
	Btime  string            `json:"btime,omitempty"`
	Xattrs map[string]string `json:"xattrs,omitempty"` // values in base64

	mode  uint16
	mtime format.Time
}

var typeNames = map[uint16]string{
	format.ModeRegular: "file", format.ModeDir: "directory", format.ModeSymlink: "symlink", format.ModeChar: "character device",
	format.ModeBlock: "block device", format.ModeFIFO: "fifo", format.ModeSocket: "socket",
}

func infoOf(p place, full string, n volume.Node, u *users) fileInfo {
	a := n.Attr()
	stamp := func(t format.Time) string {
		return time.Unix(t.Sec, int64(t.Nsec)).UTC().Format(time.RFC3339Nano)
	}
	i := fileInfo{
		Image: p.image(), Path: full, Inode: n.Number(), Type: typeNames[a.Mode&format.ModeType], Mode: fmt.Sprintf("%04o", a.Mode&format.ModePerm),
		Links: a.Links, UID: a.UID, GID: a.GID, User: u.names[a.UID], Group: u.groups[a.GID], Size: a.Size, Blocks: a.Blocks512,
		Mtime: stamp(a.Mtime), Atime: stamp(a.Atime), Ctime: stamp(a.Ctime), mode: a.Mode, mtime: a.Mtime,
	}
	if a.Btime != (format.Time{}) {
		i.Btime = stamp(a.Btime)
	}
	switch a.Mode & format.ModeType {
	case format.ModeChar, format.ModeBlock:
		i.Device = fmt.Sprintf("%d,%d", a.Major, a.Minor)
	case format.ModeSymlink:
		i.Target, _ = n.Readlink() // one that cannot be read shows none
	}
	return i
}

func stat(c *cli.Context, s *volumes, places []place) error {
	infos := []fileInfo{}
	for _, p := range places {
		v, n, err := s.node(p, c.Bool("dereference"))
		if err != nil {
			return err
		}
		i := infoOf(p, p.path, n, usersOf(v))
		attrs, err := n.Xattrs()
		n.Close()
		if err != nil {
			return p.at(&volume.PathError{Path: p.path, Err: err})
		}
		for name, value := range attrs {
			if i.Xattrs == nil {
				i.Xattrs = make(map[string]string)
			}
			i.Xattrs[name] = base64.StdEncoding.EncodeToString(value)
		}
		infos = append(infos, i)
	}
	if c.Bool("json") {
		return printJSON(c, infos)
	}
	for _, i := range infos {
		name := shown(c.App.Writer, i.Path)
		if i.Target != "" {
			name += " -> " + shown(c.App.Writer, i.Target)
		}
		device := ""
		if i.Device != "" {
			device = "  Device type: " + i.Device
		}
		_, err := fmt.Fprintf(c.App.Writer, "  File: %s:%s\n  Size: %d  Blocks: %d  %s\n Inode: %d  Links: %d%s\nAccess: (%s/%s)  Uid: (%d/%s)  Gid: (%d/%s)\nAccess: %s\nModify: %s\nChange: %s\n",
			i.Image, name, i.Size, i.Blocks, i.Type, i.Inode, i.Links, device, i.Mode, filemode.String(uint32(i.mode)), i.UID, orDash(i.User), i.GID, orDash(i.Group), i.Atime, i.Mtime, i.Ctime)
		if err != nil {
			return err
		}
		if i.Btime != "" {
			fmt.Fprintf(c.App.Writer, " Birth: %s\n", i.Btime)
		}
		names := make([]string, 0, len(i.Xattrs))
		for name := range i.Xattrs {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(c.App.Writer, " Xattr: %s=0s%s\n", shown(c.App.Writer, name), i.Xattrs[name])
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}
