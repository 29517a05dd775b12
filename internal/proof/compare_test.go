package proof

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// describe gives one line to every entry below dir with all that a filesystem keeps
// of it: type and mode, owner, links, size, device, nanosecond mtime, xattrs, target
// and content. Entries below a path in skip are left out.
func describe(t testing.TB, dir string, skip ...string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	inodes := map[uint64]string{} // the first name of an inode with several
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		for _, s := range skip {
			if rel == s || strings.HasPrefix(rel, s+"/") {
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
		if rel != "." {
			fmt.Fprintf(&b, " mtime %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " rdev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " target %q", target)
		case unix.S_IFREG:
			sum, err := sumFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " size %d sha256 %s", st.Size, sum)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			first, ok := inodes[st.Ino]
			if !ok {
				first, inodes[st.Ino] = rel, rel
			}
			fmt.Fprintf(&b, " links %d with %s", st.Nlink, first)
		}
		xattrs, err := readXattrs(path)
		if err != nil {
			return err
		}
		b.WriteString(xattrs)
		lines[rel] = b.String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// sumImage is a sum of a disk's content that does not read its holes: two disks have
// the same if and only if their bytes are the same, however sparse each is.
func sumImage(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", info.Size())
	const piece = 4096
	var zero, block [piece]byte
	for off := int64(0); off < info.Size(); {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return "", fmt.Errorf("%s: SEEK_DATA: %w", path, err)
		}
		end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return "", fmt.Errorf("%s: SEEK_HOLE: %w", path, err)
		}
		for off = data / piece * piece; off < end; off += piece {
			n, err := f.ReadAt(block[:], off)
			if err != nil && err != io.EOF {
				return "", err
			}
			if !bytes.Equal(block[:n], zero[:n]) {
				fmt.Fprintf(h, "%d\n", off)
				h.Write(block[:n])
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func readXattrs(path string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", fmt.Errorf("llistxattr %s: %w", path, err)
	}
	var names []string
	for _, name := range bytes.Split(list[:n], []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	sort.Strings(names)
	var b strings.Builder
	value := make([]byte, 64<<10)
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("lgetxattr %s %s: %w", path, name, err)
		}
		fmt.Fprintf(&b, " %s=%x", name, value[:n])
	}
	return b.String(), nil
}

// sameTrees fails the test for every entry that two descriptions give differently.
func sameTrees(t testing.TB, want, got map[string]string) {
	t.Helper()
	if len(want) < 100 {
		t.Errorf("only %d entries to compare", len(want))
	}
	wrong := 0
	report := func(format string, args ...any) {
		if wrong++; wrong <= 20 {
			t.Errorf(format, args...)
		}
	}
	for path, w := range want {
		if g, ok := got[path]; !ok {
			report("%s is missing", path)
		} else if g != w {
			report("%s differs:\n  have %s\n  want %s", path, g, w)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			report("%s was not in the source", path)
		}
	}
	if wrong > 20 {
		t.Errorf("and %d more differences", wrong-20)
	}
}

// sameContent fails the test unless two files hold the same bytes.
func sameContent(t testing.TB, a, b string) {
	t.Helper()
	sums := [2]string{}
	for i, path := range []string{a, b} {
		var err error
		if sums[i], err = sumImage(path); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("%s and %s differ", a, b)
	}
}
