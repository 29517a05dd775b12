package volume

import (
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// commitEvery is how long changes wait for a commit that nothing else asks for. A command
// ends with one anyway; those before it only cost time.
const commitEvery = 10 * time.Minute

func ext4Options(write bool) ext4.Options {
	return ext4.Options{ReadOnly: !write, NoWrite: !write, CommitEvery: commitEvery}
}

// extFS is an ext2, ext3 or ext4 filesystem.
type extFS struct{ fs *ext4.FS }

func (e extFS) root() (Node, error) {
	n, err := e.fs.Root()
	if err != nil {
		return nil, err
	}
	return Ext{n}, nil
}

func (e extFS) close() error { return e.fs.Close() }

func (e extFS) usage() (Usage, error) {
	s, info := e.fs.Statfs(), e.fs.Info()
	kind := "ext2"
	switch {
	case info.Incompat&format.IncompatExtents != 0 || info.RoCompat&(format.RoHugeFile|format.RoGDTCsum|format.RoDirNlink|format.RoExtraIsize|format.RoMetadataCsum) != 0:
		kind = "ext4"
	case info.Journal:
		kind = "ext3"
	}
	return Usage{
		Type: kind, Label: info.Label, BlockSize: s.BlockSize, Blocks: s.Blocks, Free: s.Free, Avail: s.Available,
		Files: s.Files, FilesFree: s.FilesFree,
	}, nil
}

// Ext is a file of an ext2, ext3 or ext4 filesystem.
type Ext struct{ *ext4.Inode }

// Number implements Node.
func (e Ext) Number() uint64 { return uint64(e.Inode.Number()) }

// Close implements Node.
func (e Ext) Close() error { return e.Put() }

// Lookup implements Node.
func (e Ext) Lookup(name string) (Node, error) {
	if !isDir(e) {
		return nil, unix.ENOTDIR
	}
	n, err := e.Inode.Lookup(name)
	if err != nil {
		return nil, err
	}
	return Ext{n}, nil
}

// Names implements Node.
func (e Ext) Names() ([]string, error) {
	if !isDir(e) {
		return nil, unix.ENOTDIR
	}
	var names []string
	var bad error
	err := e.ReadDir(0, func(d ext4.DirEntry) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		if bad = tree.CheckName(d.Name); bad != nil {
			return false
		}
		names = append(names, d.Name)
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Runs implements Node.
func (e Ext) Runs() ([]tree.Region, error) {
	size := e.Attr().Size
	if size == 0 {
		return nil, nil
	}
	runs := []tree.Region{}
	err := e.Map(0, size, func(x ext4.Extent) bool {
		start, end := max(x.Offset, 0), min(x.Offset+x.Length, size)
		if x.State != ext4.Written && x.State != ext4.Inline || start >= end {
			return true
		}
		if last := len(runs) - 1; last >= 0 && runs[last].Off+runs[last].Len == start {
			runs[last].Len += end - start
		} else {
			runs = append(runs, tree.Region{Off: start, Len: end - start})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if len(runs) == 1 && runs[0].Len == size {
		return nil, nil
	}
	return runs, nil
}

// Xattrs implements Node.
func (e Ext) Xattrs() (map[string][]byte, error) {
	names, err := e.Inode.Xattrs()
	if err != nil || len(names) == 0 {
		return nil, err
	}
	attrs := make(map[string][]byte, len(names))
	for _, name := range names {
		if attrs[name], err = e.Xattr(name); err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return attrs, nil
}

func isDir(n Node) bool { return n.Attr().Mode&format.ModeType == format.ModeDir }

// reader reads a regular file from its beginning.
type reader struct {
	n   Node
	off int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.n.ReadAt(p, r.off)
	r.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// NewReader reads a regular file from its beginning to its end.
func NewReader(n Node) io.Reader { return &reader{n: n} }
