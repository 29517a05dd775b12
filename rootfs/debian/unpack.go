package debian

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/compression"
	"github.com/umlkit/umlkit/rootfs/tarball"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// admin is dpkg's directory.
const admin = "/var/lib/dpkg"

// newConffile is the suffix of a configuration file that dpkg has unpacked and not yet put
// in its place.
const newConffile = ".dpkg-new"

// unpacker fills a tree with packages as `dpkg --unpack` would, but for the scripts.
type unpacker struct {
	t      *tree.Tree
	store  tree.Store
	status strings.Builder
	files  map[string][]string // triggers by path, and
	names  map[string][]string // by name: who is interested
}

// merged are the directories that are links into /usr since Debian 12.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

func newUnpacker(t *tree.Tree, store tree.Store) (*unpacker, error) {
	u := &unpacker{t: t, store: store, files: map[string][]string{}, names: map[string][]string{}}
	for _, dir := range merged {
		if _, err := t.Mkdir("/usr/" + dir); err != nil {
			return nil, err
		}
		if err := t.Symlink("usr/"+dir, "/"+dir); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{admin + "/info", admin + "/updates", admin + "/triggers", admin + "/parts", admin + "/alternatives"} {
		if _, err := t.Mkdir(dir); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// add unpacks one package, whose file r is.
func (u *unpacker) add(ctx context.Context, p *pkg, r io.Reader) error {
	if err := u.unpack(ctx, p, r); err != nil {
		return fmt.Errorf("package %s: %w", p.name, err)
	}
	return nil
}

func (u *unpacker) unpack(ctx context.Context, p *pkg, r io.Reader) error {
	d, err := openDeb(r)
	if err != nil {
		return err
	}
	defer d.close()
	text := paragraph(strings.Trim(string(d.control["control"].content), "\n") + "\n")
	if text.field("Package") != p.name || text.field("Version") != p.text.field("Version") || text.field("Architecture") != p.arch || strings.Contains(string(text), "\n\n") {
		return fmt.Errorf("it says that it is %.80s %.80s", text.field("Package"), text.field("Version"))
	}
	conffiles, err := conffilesOf(d.control["conffiles"].content)
	if err != nil {
		return err
	}
	store := &summing{Store: u.store}
	if _, ok := d.control["md5sums"]; !ok {
		store.sums = make(map[tree.Content][md5.Size]byte)
	}
	files := &tarball.Package{New: map[string]string{}}
	for _, c := range conffiles {
		files.New[c] = c + newConffile
	}
	ahead := compression.Ahead(ctx, d.data)
	err = files.Add(ctx, "its files", u.t, store, ahead)
	if err == nil {
		_, err = io.Copy(io.Discard, ahead) // the end of a packed stream says whether it was sound
	}
	ahead.Close()
	if err != nil {
		return err
	}
	for _, c := range conffiles {
		if _, err := u.t.Lookup(c+newConffile, false); err != nil {
			return fmt.Errorf("conffiles: /%s is not among its files", c)
		}
	}
	if err := u.triggers(p, string(d.control["triggers"].content)); err != nil {
		return err
	}
	if store.sums != nil {
		d.control["md5sums"] = script{u.md5sums(files, store.sums), 0o644}
	}
	u.addStatus(text, conffiles)
	return u.info(p, text, d.control, files.Names)
}

// summing is a store that also sums what is put. Its contents are pointers.
type summing struct {
	tree.Store
	sums map[tree.Content][md5.Size]byte // nil: nothing is summed
}

// Put implements tree.Store.
func (s *summing) Put(size int64, data []tree.Region, r io.Reader) (tree.Content, error) {
	if s.sums == nil {
		return s.Store.Put(size, data, r)
	}
	h := md5.New()
	c, err := s.Store.Put(size, data, io.TeeReader(r, h))
	if err == nil {
		s.sums[c] = [md5.Size]byte(h.Sum(nil))
	}
	return c, err
}

// md5sums is the file of sums that dpkg makes for a package that brings none.
func (u *unpacker) md5sums(files *tarball.Package, sums map[tree.Content][md5.Size]byte) []byte {
	var b bytes.Buffer
	for _, name := range files.Names {
		name = strings.TrimPrefix(name, "/")
		at, ok := files.New[name]
		if !ok {
			at = name
		}
		n, err := u.t.Lookup(at, false)
		if err != nil || !n.IsRegular() {
			continue
		}
		sum := md5.Sum(nil)
		if n.Content != nil {
			sum = sums[n.Content]
		}
		fmt.Fprintf(&b, "%x  %s\n", sum, name)
	}
	return b.Bytes()
}

// conffilesOf reads the control archive's list of configuration files, without the slash
// before each.
func conffilesOf(list []byte) ([]string, error) {
	var out []string
	for line := range strings.Lines(string(list)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "remove-on-upgrade ") {
			continue
		}
		path, err := tarball.Clean(line)
		if err != nil || path == "" || line[0] != '/' {
			return nil, fmt.Errorf("conffiles: %.200q is no file", line)
		}
		out = append(out, path)
	}
	return out, nil
}

// addStatus adds a package to the status file, as one that is unpacked.
func (u *unpacker) addStatus(text paragraph, conffiles []string) {
	first := "Package: " + text.field("Package") + "\n"
	u.status.WriteString(first + "Status: install ok unpacked\n")
	skip := false // the lines that continue the field which was written already
	for line := range strings.Lines(string(text)) {
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := strings.Cut(line, ":")
			skip = strings.EqualFold(name, "Package") || strings.EqualFold(name, "Status") || strings.EqualFold(name, "Conffiles")
		}
		if !skip {
			u.status.WriteString(line)
		}
	}
	if len(conffiles) > 0 {
		u.status.WriteString("Conffiles:\n")
		for _, c := range conffiles {
			u.status.WriteString(" /" + c + " newconffile\n")
		}
	}
	u.status.WriteString("\n")
}

// info writes what dpkg keeps of a package in its info directory.
func (u *unpacker) info(p *pkg, text paragraph, control map[string]script, names []string) error {
	base := admin + "/info/" + p.name
	if text.field("Multi-Arch") == "same" {
		base += ":" + p.arch
	}
	if len(names) == 0 || names[0] != "/." {
		names = slices.Concat([]string{"/."}, names)
	}
	if err := u.t.WriteFile(base+".list", []byte(strings.Join(names, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	for name, s := range control {
		if name == "control" {
			continue
		}
		if err := u.t.WriteFile(base+"."+name, s.content, s.mode); err != nil {
			return err
		}
	}
	return nil
}

// triggers notes what a package is interested in: deb-triggers(5).
func (u *unpacker) triggers(p *pkg, text string) error {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 2 || f[1] == "." || f[1] == ".." || strings.Trim(f[1], "!\"$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~") != "" {
			return fmt.Errorf("triggers: line %.200q", line)
		}
		who := p.name
		switch f[0] {
		case "interest", "interest-await":
		case "interest-noawait":
			who += "/noawait"
		default:
			continue // what it activates is the work of dpkg when it configures
		}
		switch {
		case strings.HasPrefix(f[1], "/"):
			u.files[f[1]] = append(u.files[f[1]], who)
		case strings.Contains(f[1], "/"):
			return fmt.Errorf("triggers: line %.200q", line)
		default:
			u.names[f[1]] = append(u.names[f[1]], who)
		}
	}
	return nil
}

// finish writes dpkg's files, when all packages are in.
func (u *unpacker) finish() error {
	var files strings.Builder
	paths := make([]string, 0, len(u.files))
	for path := range u.files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		for _, who := range u.files[path] {
			files.WriteString(path + " " + who + "\n")
		}
	}
	for name, who := range u.names {
		if err := u.t.WriteFile(admin+"/triggers/"+name, []byte(strings.Join(who, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, text string }{
		{"triggers/File", files.String()}, {"triggers/Unincorp", ""}, {"status", u.status.String()}, {"available", ""},
		{"diversions", ""}, {"statoverride", ""}, {"info/format", "1\n"},
	} {
		if err := u.t.WriteFile(admin+"/"+f.name, []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"triggers/Lock", "lock", "lock-frontend"} {
		if err := u.t.Put(admin+"/"+name, &tree.Node{Mode: unix.S_IFREG | 0o640}); err != nil {
			return err
		}
	}
	return nil
}
