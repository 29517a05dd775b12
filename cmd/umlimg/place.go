package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/volume"
)

// imageFiles is where the help lists the commands that work on files in an image.
const imageFiles = "files in an image"

// place is what an operand names: a file of this machine, or DISK[#N]:/PATH, a file in a
// disk or in its partition N.
type place struct {
	text string // as it was given
	disk string // "" for a file of this machine
	part int    // 0: the whole disk
	path string
}

func (p place) inImage() bool { return p.disk != "" }

// image is the operand without the path.
func (p place) image() string {
	if p.part == 0 {
		return p.disk
	}
	return p.disk + "#" + strconv.Itoa(p.part)
}

// parsePlace reads an operand. The first ":/" ends the disk's name.
func parsePlace(text string) place {
	disk, _, ok := strings.Cut(text, ":/")
	if !ok || disk == "" {
		return place{text: text, path: text}
	}
	p := parseDisk(disk)
	p.text, p.path = text, text[len(disk)+1:]
	return p
}

// parseDisk reads DISK[#N].
func parseDisk(text string) place {
	p := place{text: text, path: "/"}
	p.disk, p.part = splitPartition(text)
	return p
}

// placeOf reads an operand. Where no such disk is there, but a directory of this machine
// whose name ends in a colon, that is meant.
func placeOf(text string) place {
	p := parsePlace(text)
	if !p.inImage() {
		return p
	}
	dir, _, _ := strings.Cut(text, ":/")
	if _, err := os.Lstat(p.disk); errors.Is(err, fs.ErrNotExist) {
		if info, err := os.Stat(dir + ":"); err == nil && info.IsDir() {
			return place{text: text, path: text}
		}
	}
	return p
}

// inImages reads operands that all are to be in images. With whole, a disk alone stands
// for its root directory.
func inImages(c *cli.Context, args []string, whole bool) ([]place, error) {
	places := make([]place, len(args))
	for i, a := range args {
		places[i] = placeOf(a)
		if places[i].inImage() {
			continue
		}
		if !whole || strings.Contains(a, ":") {
			return nil, usagef("%s: %s names no file in an image: write IMAGE:/PATH", c.Command.Name, a)
		}
		places[i] = parseDisk(a)
	}
	return places, nil
}

// volumes are the filesystems that a command has open: each disk and each volume once.
type volumes struct {
	write   bool // those that are opened from now on
	disks   []heldDisk
	volumes []openVolume
	changed []fileInfo // for --json
}

type heldDisk struct {
	info  os.FileInfo
	dev   ubdfmt.Device
	path  string
	files []os.FileInfo // that it lies in, backing files among them
}

type openVolume struct {
	dev  ubdfmt.Device
	part int
	v    *volume.Volume
}

// get opens the filesystem that a place is in.
func (s *volumes) get(p place) (*volume.Volume, error) {
	v, err := s.find(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.image(), ofImage(p.disk, err))
	}
	return v, nil
}

func (s *volumes) find(p place) (*volume.Volume, error) {
	dev, err := s.device(p.disk)
	if err != nil {
		return nil, err
	}
	for _, o := range s.volumes {
		if o.dev == dev && o.part == p.part {
			return o.v, nil
		}
	}
	in := dev
	if p.part > 0 {
		if in, err = partition.Open(dev, p.part); err != nil {
			return nil, err
		}
	}
	v, err := volume.Open(in, s.write)
	if err != nil {
		var none *volume.NoFilesystemError
		if p.part == 0 && errors.As(err, &none) && strings.Contains(none.Found, "partition table") {
			return nil, fmt.Errorf("it holds %s: name a partition, as %s#1:/", none.Found, p.disk)
		}
		return nil, err
	}
	s.volumes = append(s.volumes, openVolume{dev, p.part, v})
	return v, nil
}

func (s *volumes) device(path string) (ubdfmt.Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	for _, d := range s.disks {
		if os.SameFile(d.info, info) {
			return d.dev, nil
		}
	}
	if info.Mode().IsRegular() && info.Size() == 0 {
		return nil, errors.New("it is empty")
	}
	dev, err := openWhole(path, ubdfmt.Options{ReadOnly: !s.write})
	var locked *ubdfmt.LockedError
	if errors.As(err, &locked) && locked.PID == os.Getpid() {
		return nil, fmt.Errorf("it is read from %s, which is changed at the same time: copy through a file of this machine", locked.Path)
	}
	if err != nil {
		return nil, err
	}
	d := heldDisk{info: info, dev: dev, path: path}
	for _, name := range diskFiles(dev, path) {
		if info, err := os.Stat(name); err == nil {
			d.files = append(d.files, info)
		}
	}
	s.disks = append(s.disks, d)
	return dev, nil
}

// holds says whether an open disk lies in a file of this machine.
func (s *volumes) holds(dev, ino uint64) bool {
	for _, d := range s.disks {
		for _, f := range d.files {
			if st, ok := f.Sys().(*syscall.Stat_t); ok && uint64(st.Dev) == dev && st.Ino == ino {
				return true
			}
		}
	}
	return false
}

// isDisk says whether a file of this machine is itself what an operand names.
func (s *volumes) isDisk(dev, ino uint64) bool {
	for _, d := range s.disks {
		if st, ok := d.info.Sys().(*syscall.Stat_t); ok && uint64(st.Dev) == dev && st.Ino == ino {
			return true
		}
	}
	return false
}

// holdsFile is holds for a file whose name may have links in it.
func (s *volumes) holdsFile(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.holds(uint64(st.Dev), st.Ino)
}

// close makes everything stable; the error is the first there was, err before all. What
// turned a filesystem into one that is only read says more than that it is.
func (s *volumes) close(err error) error {
	for _, o := range s.volumes {
		if e := o.v.Close(); e != nil && (err == nil || errors.Is(err, unix.EROFS)) {
			err = e
		}
	}
	for _, d := range s.disks {
		if e := d.dev.Close(); e != nil && err == nil {
			err = fmt.Errorf("%s: %w", d.path, ofImage(d.path, e))
		}
	}
	s.volumes, s.disks = nil, nil
	return err
}

// at is an error in the filesystem of a place.
func (p place) at(err error) error {
	var in *volume.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &in) && p.inImage():
		return fmt.Errorf("%s:%w", p.image(), err)
	}
	return fmt.Errorf("%s: %w", p.text, err)
}

// expand are the places that patterns in the paths match.
func (s *volumes) expand(places []place) ([]place, error) {
	var all []place
	for _, p := range places {
		v, err := s.get(p)
		if err != nil {
			return nil, err
		}
		paths, err := v.Glob(p.path)
		if err != nil {
			return nil, p.at(err)
		}
		for _, path := range paths {
			q := p
			q.path, q.text = path, p.image()+":"+path
			all = append(all, q)
		}
	}
	return all, nil
}

// node finds the file at a place.
func (s *volumes) node(p place, follow bool) (*volume.Volume, volume.Node, error) {
	v, err := s.get(p)
	if err != nil {
		return nil, nil, err
	}
	n, err := v.Find(p.path, follow)
	return v, n, p.at(err)
}

// readVerb is a command that reads images: its operands are places in them, patterns
// expanded.
func readVerb(c *cli.Context, least int, whole bool, do func(s *volumes, places []place) error) error {
	return verb(c, false, least, whole, do)
}

// writeVerb is a command that changes images.
func writeVerb(c *cli.Context, least int, do func(s *volumes, places []place) error) error {
	return verb(c, true, least, false, do)
}

func verb(c *cli.Context, write bool, least int, whole bool, do func(s *volumes, places []place) error) error {
	args, err := operands(c, least, -1)
	if err != nil {
		return err
	}
	places, err := inImages(c, args, whole)
	if err != nil {
		return err
	}
	s := &volumes{write: write}
	places, err = s.expand(places)
	if err == nil {
		err = do(s, places)
	}
	return named(c, s.close(err))
}

// named puts the command's name before an error.
func named(c *cli.Context, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.Command.Name, err)
}

// warn says on stderr what a command left out.
func warn(c *cli.Context, format string, a ...any) {
	fmt.Fprintf(c.App.ErrWriter, "umlimg: %s: %s\n", c.Command.Name, oneLine(fmt.Errorf(format, a...)))
}
