package archive

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/filemode"
	"golang.org/x/sys/unix"
)

type tape struct {
	e          *applet.Env
	db         account.Database
	file       string
	dir        string
	gzip       bool
	verbose    bool
	toStdout   bool
	keepOld    bool
	absolute   bool
	follow     bool
	numeric    bool
	xattrs     bool
	samePerm   bool
	sameOwner  bool
	noTimes    bool
	xdev       bool
	strip      int
	excludes   []string
	warnedRoot bool
}

// Tar packs and unpacks archives.
func Tar(e *applet.Env, args []string) error {
	t := &tape{e: e, file: os.Getenv("TAPE"), sameOwner: os.Geteuid() == 0, samePerm: os.Geteuid() == 0}
	if t.file == "" {
		t.file = "-"
	}
	// The historic form: a first word of letters without a dash.
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		args = historic(args)
	}
	mode := byte(0)
	list := ""
	var o applet.Options
	for _, m := range []struct {
		c    byte
		long string
	}{{'c', "create"}, {'x', "extract"}, {'t', "list"}} {
		o.Func(m.c, m.long, func() { mode = m.c })
	}
	o.String(&t.file, 'f', "file")
	o.String(&t.dir, 'C', "directory")
	o.Bool(&t.gzip, 'z', "gzip") // when reading, the first bytes tell
	o.Bool(&t.verbose, 'v', "verbose")
	o.Bool(&t.toStdout, 'O', "to-stdout")
	o.Bool(&t.keepOld, 'k', "keep-old-files")
	o.Bool(&t.absolute, 'P', "absolute-names")
	o.Bool(&t.follow, 'h', "dereference")
	o.Bool(&t.samePerm, 'p', "preserve-permissions")
	o.Func(0, "no-same-permissions", func() { t.samePerm = false })
	o.Bool(&t.sameOwner, 0, "same-owner")
	o.Func('o', "no-same-owner", func() { t.sameOwner = false })
	o.Bool(&t.numeric, 0, "numeric-owner")
	o.Bool(&t.xattrs, 0, "xattrs")
	o.Bool(&t.noTimes, 'm', "touch")
	o.Bool(&t.xdev, 0, "one-file-system")
	o.Int(&t.strip, 0, "strip-components")
	o.Value(0, "exclude", func(s string) error { t.excludes = append(t.excludes, s); return nil })
	o.String(&list, 'T', "files-from")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if list != "" {
		b, err := os.ReadFile(list)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			names = append(names, strings.TrimSuffix(line, "\n"))
		}
	}
	if !t.numeric {
		t.db = account.Load()
	}
	switch mode {
	case 'c':
		return t.create(names)
	case 'x', 't':
		return t.read(names, mode == 'x')
	}
	return applet.Usagef("one of -c, -x and -t is needed")
}

// historic turns "xzf archive" into "-x -z -f archive": the letters take
// their arguments in order from the words that follow.
func historic(args []string) []string {
	letters, rest := args[0], args[1:]
	var out []string
	for _, c := range letters {
		out = append(out, "-"+string(c))
		if strings.ContainsRune("fCT", c) && len(rest) > 0 {
			out, rest = append(out, rest[0]), rest[1:]
		}
	}
	return append(out, rest...)
}

func (t *tape) excluded(name string) bool {
	for _, pattern := range t.excludes {
		pattern = strings.TrimSuffix(pattern, "/")
		for part := name; part != ""; {
			if ok, _ := path.Match(pattern, part); ok || part == pattern || strings.HasPrefix(part, pattern+"/") {
				return true
			}
			_, rest, ok := strings.Cut(part, "/")
			if !ok {
				break
			}
			part = rest
		}
	}
	return false
}

func (t *tape) create(names []string) (err error) {
	if len(names) == 0 {
		return applet.Usagef("an empty archive is not made")
	}
	var out io.Writer = t.e.Stdout
	var self unix.Stat_t
	if t.file != "-" {
		f, err := os.Create(t.file)
		if err != nil {
			return err
		}
		defer func() {
			if cerr := f.Close(); err == nil {
				err = cerr
			}
		}()
		if err := unix.Fstat(int(f.Fd()), &self); err != nil {
			return err
		}
		b := bufio.NewWriterSize(f, 256<<10)
		defer func() {
			if ferr := b.Flush(); err == nil {
				err = ferr
			}
		}()
		out = b
	} else if applet.IsTerminal(1) {
		return errors.New("an archive is not written to a terminal; use -f")
	}
	if t.gzip {
		z := gzip.NewWriter(out)
		defer func() {
			if cerr := z.Close(); err == nil {
				err = cerr
			}
		}()
		out = z
	}
	if t.dir != "" {
		if err := os.Chdir(t.dir); err != nil {
			return err
		}
	}
	p := &packer{t: t, w: tar.NewWriter(out), self: self, links: map[[2]uint64]string{}}
	for _, name := range names {
		if err := p.add(name, 0, true); err != nil {
			return err
		}
	}
	return p.w.Close()
}

type packer struct {
	t     *tape
	w     *tar.Writer
	self  unix.Stat_t // the archive, which does not contain itself
	links map[[2]uint64]string
}

func (p *packer) add(name string, dev uint64, operand bool) error {
	t := p.t
	var st unix.Stat_t
	stat := unix.Lstat
	if t.follow {
		stat = unix.Stat
	}
	if err := stat(name, &st); err != nil {
		t.e.Warn(&fs.PathError{Op: "stat", Path: name, Err: err})
		return nil
	}
	if operand {
		dev = uint64(st.Dev)
	}
	if t.excluded(strings.TrimPrefix(name, "./")) || st.Dev == p.self.Dev && st.Ino == p.self.Ino {
		return nil
	}
	if t.xdev && uint64(st.Dev) != dev {
		return nil
	}
	h, err := p.header(name, &st)
	if err != nil || h == nil {
		t.e.Warn(err)
		return nil
	}
	if t.verbose {
		out := io.Writer(t.e.Stdout)
		if t.file == "-" {
			out = t.e.Stderr
		}
		fmt.Fprintln(out, h.Name)
	}
	if h.Typeflag == tar.TypeReg && h.Size > 0 {
		if err := p.content(name, h); err != nil {
			return err
		}
	} else if err := p.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Typeflag != tar.TypeDir {
		return nil
	}
	entries, err := os.ReadDir(name)
	t.e.Warn(err)
	for _, ent := range entries {
		if err := p.add(strings.TrimSuffix(name, "/")+"/"+ent.Name(), dev, false); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) header(name string, st *unix.Stat_t) (*tar.Header, error) {
	t := p.t
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), // the classic header has no more
	}
	if !t.absolute {
		if h.Name = strings.TrimLeft(name, "/"); h.Name != name && !t.warnedRoot {
			t.warnedRoot = true
			fmt.Fprintln(t.e.Stderr, "tar: Removing leading `/' from member names")
		}
		if h.Name == "" {
			h.Name = "./"
		}
	}
	if !t.numeric {
		if n := t.db.UserName(st.Uid); n != strconv.Itoa(int(st.Uid)) {
			h.Uname = n
		}
		if n := t.db.GroupName(st.Gid); n != strconv.Itoa(int(st.Gid)) {
			h.Gname = n
		}
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := p.links[key]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return h, nil
		}
		p.links[key] = h.Name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		if !strings.HasSuffix(h.Name, "/") {
			h.Name += "/"
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(name)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		fmt.Fprintf(t.e.Stderr, "tar: %s: socket ignored\n", name)
		return nil, nil
	}
	if t.xattrs {
		if err := packXattrs(name, h); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (p *packer) content(name string, h *tar.Header) error {
	f, err := os.Open(name)
	if err != nil {
		p.t.e.Warn(err)
		return nil
	}
	defer f.Close()
	if err := p.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	n, err := io.Copy(p.w, io.LimitReader(f, h.Size))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n < h.Size {
		// The header promised more: zeros keep the archive readable.
		p.t.e.Warnf("%s: File shrank by %d bytes; padding with zeros", name, h.Size-n)
		_, err = io.CopyN(p.w, zeros{}, h.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

const xattrRecord = "SCHILY.xattr."

func packXattrs(name string, h *tar.Header) error {
	n, err := unix.Llistxattr(name, nil)
	if err != nil || n <= 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return err
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(name, list); err != nil {
		return err
	}
	for attr := range strings.SplitSeq(strings.Trim(string(list[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return &fs.PathError{Op: "getxattr " + attr, Path: name, Err: err}
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+attr] = string(value[:n])
	}
	return nil
}

// read lists or extracts the members that names choose; all if there are none.
func (t *tape) read(names []string, extract bool) error {
	in := t.e.Stdin
	if t.file != "-" {
		f, err := os.Open(t.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	r, _, err := decompress(bufio.NewReaderSize(in, 256<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", t.file, err)
	}
	if t.dir != "" {
		if err := os.Chdir(t.dir); err != nil {
			return err
		}
	}
	u := &unpacker{t: t}
	wanted := make([]bool, len(names))
	members := false
	counted := &nonEmpty{r: r}
	for tr := tar.NewReader(counted); ; {
		h, err := tr.Next()
		if err == io.EOF && !members && !counted.any {
			return errors.New("this does not look like a tar archive")
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.file, err)
		}
		members = true
		chosen := len(names) == 0
		for i, n := range names {
			n = strings.TrimSuffix(n, "/")
			if strings.TrimSuffix(h.Name, "/") == n || strings.HasPrefix(h.Name, n+"/") {
				chosen, wanted[i] = true, true
			}
		}
		if !chosen || t.excluded(strings.TrimPrefix(strings.TrimSuffix(h.Name, "/"), "./")) {
			continue
		}
		if !extract {
			t.list(h)
			continue
		}
		if err := u.member(h, tr); err != nil {
			t.e.Warn(fmt.Errorf("%s: %s", h.Name, applet.Reason(err)))
		}
	}
	u.finish()
	for i, ok := range wanted {
		if !ok {
			t.e.Warnf("%s: Not found in archive", names[i])
		}
	}
	return nil
}

// nonEmpty notes whether there was anything to read at all.
type nonEmpty struct {
	r   io.Reader
	any bool
}

func (n *nonEmpty) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	n.any = n.any || k > 0
	return k, err
}

func (t *tape) list(h *tar.Header) {
	if !t.verbose {
		fmt.Fprintln(t.e.Stdout, h.Name)
		return
	}
	user, group := h.Uname, h.Gname
	if user == "" || t.numeric {
		user = strconv.Itoa(h.Uid)
	}
	if group == "" || t.numeric {
		group = strconv.Itoa(h.Gid)
	}
	size := strconv.FormatInt(h.Size, 10)
	kinds := map[byte]uint32{tar.TypeReg: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK,
		tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}
	mode := filemode.String(kinds[h.Typeflag] | uint32(h.Mode)&0o7777)
	name := h.Name
	switch h.Typeflag {
	case tar.TypeSymlink:
		name += " -> " + h.Linkname
	case tar.TypeLink:
		mode = "h" + mode[1:]
		name += " link to " + h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		size = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
	}
	who := user + "/" + group
	fmt.Fprintf(t.e.Stdout, "%s %s %*s %s %s\n", mode, who, max(18-len(who), len(size)), size,
		h.ModTime.Local().Format("2006-01-02 15:04"), name)
}

// memberName is where a member is extracted: relative, without "..", and
// without the components that are stripped. It is "" for what is left out.
func (t *tape) memberName(name string) string {
	if !t.absolute {
		name = strings.TrimLeft(name, "/")
		for part := range strings.SplitSeq(name, "/") {
			if part == ".." {
				t.e.Warnf("%s: Member name contains '..', skipping", name)
				return ""
			}
		}
	}
	for range t.strip {
		_, rest, ok := strings.Cut(strings.TrimLeft(name, "/"), "/")
		if !ok {
			return ""
		}
		name = rest
	}
	if name == "" {
		return ""
	}
	return filepath.Clean(name)
}
