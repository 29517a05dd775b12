package tarball

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Writer writes a tree as a tar archive in the pax form (POSIX.1-2001): owners by number,
// times to the nanosecond, extended attributes as star and GNU tar keep them, hard links,
// device nodes, and holes as GNU tar 1.0 has them. archive/tar writes no holes, so
// headers are made here.
type Writer struct {
	W io.Writer

	// Skipped, where set, is told what was left out, and why.
	Skipped func(path, why string)

	// Wrote, where set, is told of bytes of content that were written.
	Wrote func(n int64)

	buf []byte
}

// Write writes a directory and all below it, with names that begin with "./", or a file of
// another type under its name.
func (w *Writer) Write(ctx context.Context, name string, n *tree.Node) error {
	first := make(map[*tree.Node]string)
	if n.IsDir() {
		if err := w.entry(ctx, "./", "", n); err != nil {
			return err
		}
		t := &tree.Tree{Root: n}
		err := t.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, isFirst bool) error {
			path = "." + path
			if n.IsDir() {
				path += "/"
			}
			if !isFirst {
				return w.entry(ctx, path, first[n], n)
			}
			first[n] = path
			return w.entry(ctx, path, "", n)
		})
		if err != nil {
			return err
		}
	} else if err := w.entry(ctx, name, "", n); err != nil {
		return err
	}
	return w.write(make([]byte, 2*blockSize))
}

func (w *Writer) write(p []byte) error {
	_, err := w.W.Write(p)
	return err
}

// entry writes one entry; link names the entry that it is one more name of.
func (w *Writer) entry(ctx context.Context, name, link string, n *tree.Node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h := header{name: name, mode: n.Mode & 0o7777, uid: n.UID, gid: n.GID, mtime: n.Mtime, link: link}
	types := map[uint32]byte{
		unix.S_IFREG: '0', unix.S_IFLNK: '2', unix.S_IFCHR: '3', unix.S_IFBLK: '4', unix.S_IFDIR: '5', unix.S_IFIFO: '6',
	}
	kind, ok := types[n.Type()]
	switch {
	case link != "":
		h.kind = '1'
		return w.write(h.encode())
	case !ok:
		if w.Skipped != nil {
			w.Skipped(name, "a socket, which tar knows nothing of")
		}
		return nil
	}
	h.kind = kind
	if kind == '2' {
		h.link = n.Target
	}
	h.major, h.minor = n.Major, n.Minor
	if !n.Atime.IsZero() && !n.Atime.Equal(n.Mtime) {
		h.record("atime", paxTime(n.Atime))
	}
	for _, attr := range slices.Sorted(mapKeys(n.Xattrs)) {
		h.record("SCHILY.xattr."+strings.NewReplacer("%", "%25", "=", "%3D").Replace(attr), string(n.Xattrs[attr]))
	}
	if kind != '0' {
		return w.write(h.encode())
	}
	runs := n.Runs()
	h.size = n.Size
	var plan []byte
	if n.Size > 0 && !(len(runs) == 1 && runs[0].Len == n.Size) {
		plan = sparseMap(runs, n.Size)
		h.size = int64(len(plan))
		for _, r := range runs {
			h.size += r.Len
		}
		h.record("GNU.sparse.major", "1")
		h.record("GNU.sparse.minor", "0")
		h.record("GNU.sparse.name", name)
		h.record("GNU.sparse.realsize", strconv.FormatInt(n.Size, 10))
		dir, base := "", name
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			dir, base = name[:i+1], name[i+1:]
		}
		h.name = dir + "GNUSparseFile.0/" + base
	}
	if err := w.write(append(h.encode(), plan...)); err != nil {
		return err
	}
	return w.content(ctx, n)
}

func mapKeys(m map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// sparseMap lists the runs of data before them: their number, then place and length of
// each, a line a number. A hole at the end shows in an empty run there.
func sparseMap(runs []tree.Region, size int64) []byte {
	if end := len(runs) - 1; end < 0 || runs[end].Off+runs[end].Len < size {
		runs = append(slices.Clone(runs), tree.Region{Off: size})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", len(runs))
	for _, r := range runs {
		fmt.Fprintf(&b, "%d\n%d\n", r.Off, r.Len)
	}
	b.Write(make([]byte, -b.Len()&(blockSize-1)))
	return b.Bytes()
}

func (w *Writer) content(ctx context.Context, n *tree.Node) error {
	total := 0
	err := n.Copy(ctx, &w.buf, func(p []byte, _ int64) error {
		if err := w.write(p); err != nil {
			return err
		}
		if w.Wrote != nil {
			w.Wrote(int64(len(p)))
		}
		total += len(p)
		return nil
	})
	if err != nil {
		return err
	}
	return w.write(make([]byte, -total&(blockSize-1)))
}

// header is what stands before an entry.
type header struct {
	name, link   string
	kind         byte
	mode         uint32
	uid, gid     uint32
	major, minor uint32
	size         int64
	mtime        time.Time

	records []byte // pax
}

// record adds a pax record: its length, counting the digits of that, key and value.
func (h *header) record(key, value string) {
	rest := len(key) + len(value) + 3
	n := rest + len(strconv.Itoa(rest))
	if rest+len(strconv.Itoa(n)) != n {
		n = rest + len(strconv.Itoa(n))
	}
	h.records = append(h.records, fmt.Sprintf("%d %s=%s\n", n, key, value)...)
}

func paxTime(t time.Time) string {
	sec, nsec := t.Unix(), t.Nanosecond()
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 {
		sign, sec, nsec = "-", -sec-1, 1e9-nsec
	}
	return sign + strings.TrimRight(fmt.Sprintf("%d.%09d", sec, nsec), "0")
}

// encode is the header's blocks: one, with the records in their own before it where a
// field does not hold what it has to.
func (h *header) encode() []byte {
	text := func(key, s string) string {
		if len(s) > 100 || strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) {
			h.record(key, s)
			for len(s) > 100 {
				s = s[:100]
			}
		}
		return s
	}
	number := func(key string, v int64, most int64) int64 {
		if v < 0 || v > most {
			if key != "" {
				h.record(key, strconv.FormatInt(v, 10))
			}
			return 0
		}
		return v
	}
	name, link := text("path", h.name), text("linkpath", h.link)
	uid, gid := number("uid", int64(h.uid), 0o7777777), number("gid", int64(h.gid), 0o7777777)
	size := number("size", h.size, 0o77777777777)
	sec := max(h.mtime.Unix(), 0)
	if h.mtime.IsZero() {
		sec = 0
	} else if h.mtime.Nanosecond() != 0 || sec != h.mtime.Unix() || sec > 0o77777777777 {
		h.record("mtime", paxTime(h.mtime))
		sec = min(sec, 0o77777777777)
	}
	b := h.block(name, link, h.kind, uid, gid, size, sec)
	if len(h.records) == 0 {
		return b
	}
	x := &header{mode: 0o644}
	out := x.block("PaxHeaders/"+base(name), "", 'x', 0, 0, int64(len(h.records)), sec)
	out = append(out, h.records...)
	out = append(out, make([]byte, -len(h.records)&(blockSize-1))...)
	return append(out, b...)
}

// base is the last part of a name, as far as the field has room.
func base(name string) string {
	name = strings.TrimSuffix(name, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	return name[:min(len(name), 80)]
}

func (h *header) block(name, link string, kind byte, uid, gid, size, sec int64) []byte {
	b := make([]byte, blockSize)
	octal := func(at, width int, v int64) { copy(b[at:at+width], fmt.Sprintf("%0*o", width-1, v)) }
	copy(b[:100], name)
	octal(100, 8, int64(h.mode))
	octal(108, 8, uid)
	octal(116, 8, gid)
	octal(124, 12, size)
	octal(136, 12, sec)
	b[156] = kind
	copy(b[157:257], link)
	copy(b[257:], "ustar\x0000")
	if kind == '3' || kind == '4' {
		octal(329, 8, int64(h.major))
		octal(337, 8, int64(h.minor))
	}
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
