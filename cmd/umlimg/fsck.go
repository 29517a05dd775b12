package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/ubdfmt"
)

// fsckResult is what e2fsck says of the file system on a disk.
type fsckResult struct {
	Type    string `json:"type"` // "ext2", "ext3" or "ext4"
	Ran     bool   `json:"checked"`
	Reason  string `json:"reason,omitempty"` // why it did not run
	Checker string `json:"checker,omitempty"`
	Clean   bool   `json:"clean"`
	// Replayed: the journal had changes that were not in place yet; they were put
	// there in a copy.
	Replayed bool     `json:"journal-replayed"`
	Messages []string `json:"messages,omitempty"`
}

const noFsck = "as e2fsck is not installed"

// checkFileSystem has e2fsck look at the ext file system that a disk holds, nil if it
// holds none. Nothing of the disk is changed: what e2fsck must not read where it lies, in
// a COW file or before its journal is replayed, it gets as a copy of all but files' data
// in a file without a name.
func checkFileSystem(c *cli.Context, path string, dev ubdfmt.Device) (*fsckResult, error) {
	super, err := readSuper(dev)
	if err != nil || super == nil {
		return nil, err
	}
	result := &fsckResult{Type: extType(super)}
	e2fsck := findFsck()
	if e2fsck == "" {
		result.Reason = noFsck
		return result, nil
	}
	dirty := super.FeatureIncompat&format.IncompatRecover != 0
	var file *os.File
	if _, raw := dev.(*ubdfmt.Raw); raw && !dirty {
		file, err = openLook(path)
	} else {
		file, err = sketch(c.Context, dev)
	}
	if err != nil {
		return nil, fmt.Errorf("copy for e2fsck: %w", err)
	}
	defer file.Close()
	if dirty {
		// What it cannot replay the check then finds.
		_, status, err := runFsck(c.Context, e2fsck, file, "-y", "-E", "journal_only")
		if err != nil {
			return nil, err
		}
		result.Replayed = status&^3 == 0
	}
	out, status, err := runFsck(c.Context, e2fsck, file, "-fn")
	switch {
	case err != nil:
		return nil, err
	case status&^12 != 0:
		return nil, fmt.Errorf("e2fsck ended with status %d: %s", status, strings.Join(out.messages, "; "))
	case status == 8 && strings.Contains(strings.Join(out.messages, " "), "unsupported feature"):
		result.Reason = "as e2fsck says: " + strings.Join(out.messages, "; ")
		return result, nil
	}
	// That the disk ends before the file system does it says, and takes for no error.
	result.Ran, result.Clean, result.Checker = true, status == 0 && !cutOff(super, dev.Size()), out.version
	if !result.Clean {
		result.Messages = out.messages
	}
	if super.State&format.StateError != 0 {
		// Nobody writes to it before the mark is off, which e2fsck -n leaves.
		result.Clean = false
		result.Messages = append(result.Messages, "it is marked as one that errors were found in: e2fsck -f takes the mark off")
	}
	return result, nil
}

// readSuper reads the superblock; nil when there is none.
func readSuper(dev ubdfmt.Device) (*format.Superblock, error) {
	b := make([]byte, 2048)
	if n, err := dev.ReadAt(b, 0); n < len(b) {
		if err == io.EOF {
			err = nil
		}
		return nil, err
	}
	super := new(format.Superblock)
	if err := super.Decode(b[1024:]); err != nil || super.Magic != format.SuperMagic {
		return nil, nil
	}
	return super, nil
}

// cutOff tells whether a file system is longer than its disk of size bytes.
func cutOff(s *format.Superblock, size int64) bool {
	blocks := uint64(s.BlocksCountLo)
	if s.FeatureIncompat&format.Incompat64Bit != 0 {
		blocks |= uint64(s.BlocksCountHi) << 32
	}
	return blocks > uint64(size)>>(10+min(s.LogBlockSize, 6))
}

// extType is what a file system is called for its features.
func extType(s *format.Superblock) string {
	switch {
	case s.FeatureIncompat&(format.IncompatExtents|format.Incompat64Bit|format.IncompatFlexBG) != 0:
		return "ext4"
	case s.FeatureCompat&format.CompatHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// fsckNames are where e2fsck is: an ordinary user's PATH leaves some out.
var fsckNames = []string{"e2fsck", "/usr/sbin/e2fsck", "/sbin/e2fsck", "/usr/local/sbin/e2fsck"}

// findFsck is the path of e2fsck, "" where it is not installed.
func findFsck() string {
	for _, name := range fsckNames {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// fsckOutput is what e2fsck printed.
type fsckOutput struct {
	version  string
	messages []string
}

// The most that is kept of what e2fsck says of a badly damaged file system.
const (
	fsckBytes = 1 << 20
	fsckLines = 200
)

// runFsck runs e2fsck on an open file.
func runFsck(ctx context.Context, e2fsck string, file *os.File, options ...string) (fsckOutput, int, error) {
	const name = "/proc/self/fd/3" // whatever the file is called, or whether it is
	cmd := exec.CommandContext(ctx, e2fsck, append(options, name)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "E2FSCK_CONFIG=/dev/null")
	cmd.ExtraFiles = []*os.File{file}
	var text limited
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	if ctx.Err() != nil {
		return fsckOutput{}, 0, ctx.Err()
	}
	status := cmd.ProcessState.ExitCode()
	if status < 0 {
		return fsckOutput{}, 0, fmt.Errorf("e2fsck: %w", err)
	}
	var out fsckOutput
	for _, line := range strings.Split(text.String(), "\n") {
		line = printable(strings.ReplaceAll(strings.TrimSpace(line), name, "the file system"))
		switch {
		case line == "" || strings.HasPrefix(line, "Pass "):
		case strings.HasPrefix(line, "e2fsck ") && out.version == "":
			out.version, _, _ = strings.Cut(line, " (")
		case len(out.messages) < fsckLines:
			out.messages = append(out.messages, line)
		}
	}
	return out, status, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	l.Builder.Write(p[:min(len(p), max(0, fsckBytes-l.Len()))])
	return len(p), nil
}

// sketch copies a disk, but for what e2fsck does not read of it, to a file without a name in
// the directory for temporary files.
func sketch(ctx context.Context, dev ubdfmt.Device) (*os.File, error) {
	skip := unread(ctx, dev)
	var copied []stretch
	need, at := int64(0), 0
	err := dev.Extents(0, dev.Size(), func(e ubdfmt.Extent) bool {
		if e.File == nil {
			return true
		}
		for off, end := e.Offset, e.Offset+e.Length; off < end; {
			for at < len(skip) && skip[at].end <= off {
				at++
			}
			upto := end
			if at < len(skip) {
				if off >= skip[at].off {
					off = min(end, skip[at].end)
					continue
				}
				upto = min(end, skip[at].off)
			}
			copied = append(copied, stretch{off, upto})
			need += upto - off
			off = upto
		}
		return ctx.Err() == nil
	})
	if err != nil {
		return nil, err
	}
	dir := os.TempDir()
	var host unix.Statfs_t
	if err := unix.Statfs(dir, &host); err == nil && uint64(need) > host.Bavail*uint64(host.Bsize) {
		return nil, fmt.Errorf("it takes %s in %s: set TMPDIR to a directory with that room", sizeText(need), dir)
	}
	f, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	if err := copyStretches(ctx, f, dev, copied); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func copyStretches(ctx context.Context, f *os.File, dev ubdfmt.Device, copied []stretch) error {
	if err := f.Truncate(dev.Size()); err != nil {
		return withoutPath(err)
	}
	buf := make([]byte, 1<<20)
	for _, s := range copied {
		for off := s.off; off < s.end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), s.end-off)]
			if n, err := dev.ReadAt(b, off); n < len(b) {
				return err
			}
			if _, err := f.WriteAt(b, off); err != nil {
				return fmt.Errorf("write in %s: %w", os.TempDir(), withoutPath(err))
			}
			off += int64(len(b))
		}
	}
	return nil
}

// unnamed makes a file that goes when it is closed.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	f, err := os.CreateTemp(dir, "umlimg-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// stretch is a run of the disk, in bytes.
type stretch struct{ off, end int64 }

// unread is where on the disk e2fsck has nothing to read, sorted: free blocks, and the data
// of regular files that have a name. Where the file system is damaged or not understood it
// may be less than all.
func unread(ctx context.Context, dev ubdfmt.Device) []stretch {
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true, NoWrite: true})
	if err != nil {
		return nil
	}
	defer fs.Close()
	const root, firstFile = 2, 11 // inodes before it are the file system's own
	var data []stretch
	seen := map[uint32]bool{root: true}
	for dirs := []uint32{root}; len(dirs) > 0 && ctx.Err() == nil; {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		var entries []ext4.DirEntry
		_ = withInode(fs, dir, func(n *ext4.Inode) error {
			return n.ReadDir(0, func(e ext4.DirEntry) bool {
				entries = append(entries, e)
				return true
			})
		})
		for _, e := range entries {
			if seen[e.Ino] || e.Ino < firstFile {
				continue
			}
			seen[e.Ino] = true
			// What cannot be read is copied: e2fsck shall see it.
			_ = withInode(fs, e.Ino, func(n *ext4.Inode) error {
				switch attr := n.Attr(); attr.Mode & unix.S_IFMT {
				case unix.S_IFDIR:
					dirs = append(dirs, e.Ino)
				case unix.S_IFREG:
					return n.Map(0, attr.Size, func(x ext4.Extent) bool {
						if x.State == ext4.Written || x.State == ext4.Unwritten {
							data = append(data, stretch{x.Disk, x.Disk + x.Length})
						}
						return true
					})
				}
				return nil
			})
		}
	}
	// Where that fails, the rest is copied.
	_ = fs.Free(ctx, func(off, n int64) bool {
		data = append(data, stretch{off, off + n})
		return true
	})
	slices.SortFunc(data, func(a, b stretch) int { return cmp.Compare(a.off, b.off) })
	return data
}

func withInode(fs *ext4.FS, ino uint32, do func(*ext4.Inode) error) error {
	n, err := fs.Inode(ino)
	if err != nil {
		return err
	}
	return errors.Join(do(n), n.Put())
}
