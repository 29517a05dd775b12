package debian

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// memory is a store that keeps content in memory.
type memory struct{}

func (memory) Put(size int64, _ []tree.Region, r io.Reader) (tree.Content, error) {
	data := make([]byte, size)
	_, err := io.ReadFull(r, data)
	return &held{tree.Bytes(data)}, err
}

type held struct{ tree.Bytes }

func fill(s *Source) (*tree.Tree, error) {
	t := tree.New()
	return t, s.Fill(context.Background(), t, memory{})
}

// names are the packages of a tree, in the order in which they were unpacked.
func names(t testing.TB, all *tree.Tree) string {
	t.Helper()
	data, err := all.ReadFile(orderFile, 1<<20)
	must(t, err)
	var out []string
	for line := range strings.Lines(string(data)) {
		out = append(out, strings.Fields(line)[0])
	}
	return strings.Join(out, " ")
}

// The tree is what dpkg --unpack makes of the same packages, with its records of them.
func TestAsDpkg(t *testing.T) {
	oracle.NeedsRoot(t) // dpkg wants to be
	a := newArchive(t)
	a.system()
	a.publish("")
	have, err := fill(a.source())
	must(t, err)
	if got := names(t, have); got != "exim mawk libone core apt" {
		t.Errorf("the packages are %s", got)
	}
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	for _, d := range merged {
		must(t, os.MkdirAll(filepath.Join(root, "usr", d), 0o755))
		must(t, os.Symlink("usr/"+d, filepath.Join(root, d)))
	}
	must(t, os.MkdirAll(filepath.Join(root, admin), 0o755))
	oracle.Run(t, "dpkg", "--root="+root, "--force-unsafe-io", "--force-depends", "--unpack", "-R", filepath.Dir(a.only(t, names(t, have))))
	s := &hostdir.Source{Path: root}
	defer s.Close()
	want := tree.New()
	must(t, s.Fill(context.Background(), want, nil))
	h, w := describe(t, have), describe(t, want)
	for name, line := range w {
		if h[name] != line {
			t.Errorf("%s is\n%s\nwant\n%s", name, h[name], line)
		}
	}
	for name := range h {
		if _, ok := w[name]; !ok {
			t.Errorf("%s is there", name)
		}
	}
	// And dpkg goes on from there.
	for _, query := range []string{"-l", "-V", "--audit"} {
		if got, want := a.dpkg(t, a.write(t, have), query), a.dpkg(t, root, query); got != want {
			t.Errorf("dpkg %s says\n%s\nwant\n%s", query, got, want)
		}
	}
}

func (a *archive) dpkg(t *testing.T, root, query string) string {
	t.Helper()
	return oracle.Run(t, "sh", "-c", "dpkg --root=$1 $2 || true", "sh", root, query)
}

// write puts a tree into a directory of the host.
func (a *archive) write(t *testing.T, all *tree.Tree) string {
	t.Helper()
	dir := t.TempDir()
	must(t, all.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		path = filepath.Join(dir, path)
		switch {
		case n.IsDir():
			return os.Mkdir(path, 0o755)
		case n.IsSymlink():
			return os.Symlink(n.Target, path)
		}
		data, err := n.Read()
		must(t, err)
		return os.WriteFile(path, data, os.FileMode(n.Mode)&0o777)
	}))
	return dir
}

// only is a directory with the packages of some names.
func (a *archive) only(t *testing.T, which string) string {
	t.Helper()
	dir := t.TempDir()
	for _, deb := range a.debs {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		if slices.Contains(strings.Fields(which), name) {
			must(t, os.Symlink(deb, filepath.Join(dir, filepath.Base(deb))))
		}
	}
	return filepath.Join(dir, "x")
}

// describe is what must be equal of each file. Of dpkg's own files those that are only
// there while it works, and the order of its status file, do not count.
func describe(t testing.TB, all *tree.Tree) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, all.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		switch path {
		case orderFile, ConfigureProgram, admin + "/status-old", admin + "/available-old", admin + "/available", admin + "/lock", admin + "/lock-frontend", admin + "/triggers/Lock",
			admin + "/triggers/Unincorp", admin + "/diversions", admin + "/statoverride", admin + "/parts", admin + "/alternatives", "/var/log":
			return nil
		}
		line := fmt.Sprintf("%o %d:%d", n.Mode, n.UID, n.GID)
		switch n.Type() {
		case unix.S_IFREG:
			data, err := n.Read()
			must(t, err)
			text := string(data)
			if path == admin+"/status" {
				text = sortedStatus(text)
			}
			line += " " + text
			if !strings.HasPrefix(path, "/var") {
				line += n.Mtime.UTC().String()
			}
		case unix.S_IFLNK:
			line += " -> " + n.Target
		}
		out[path] = line
		return nil
	}))
	return out
}

// sortedStatus has the paragraphs of a status file, and the fields of each, in an order.
func sortedStatus(text string) string {
	var all []string
	_ = eachParagraph(text, func(p paragraph) error {
		fields := strings.Split(strings.ReplaceAll(strings.TrimSpace(string(p)), "\n ", "\x00"), "\n")
		slices.Sort(fields)
		all = append(all, strings.Join(fields, "\n"))
		return nil
	})
	slices.Sort(all)
	return strings.Join(all, "\n\n")
}

// Which packages a variant and what is asked for come to.
func TestResolve(t *testing.T) {
	a := newArchive(t)
	a.system()
	a.publish("")
	for _, c := range []struct{ variant, include, want string }{
		{"apt", "", "apt core exim libone mawk"},
		{"minbase", "", "apt core exim libone mawk"},
		{"important", "", "apt core exim libone mawk"},
		{"minbase", "gawk", "apt core exim gawk libone mawk"},
		{"minbase", "helpers", "apt core exim helpers libone mawk usr-is-merged"},
		{"minbase", "postfix", "apt core libone mawk postfix"},
		{"important", "postfix", "error: packages exim and postfix cannot be installed together"},
		{"minbase", "postfix exim", "error: packages exim and postfix cannot be installed together"},
		{"minbase", "never", "error: packages core and never cannot be installed together"},
		{"minbase", "old", "error: package old needs libone (<< 1:1.0~rc1), which is not to be had"},
		{"minbase", "mail-agent", "error: package mail-agent is virtual: name one that provides it, such as exim"},
		{"minbase", "nothing", "error: there is no package nothing"},
	} {
		s := a.source()
		s.Variant, s.Include = c.variant, strings.Fields(c.include)
		all, err := fill(s)
		have := ""
		if err != nil {
			have = "error: " + strings.TrimPrefix(err.Error(), "test: ")
		} else {
			chosen := strings.Fields(names(t, all))
			slices.Sort(chosen)
			have = strings.Join(chosen, " ")
		}
		if have != c.want {
			t.Errorf("%s %s: %s, want %s", c.variant, c.include, have, c.want)
		}
	}
}

// What is not signed by a key of the keyring, not of now, or not what was signed, is
// refused.
func TestRefused(t *testing.T) {
	other := newArchive(t)
	change := func(name, old, new string) func(*archive) {
		return func(a *archive) {
			data, err := os.ReadFile(a.at(name))
			must(t, err)
			if !strings.Contains(string(data), old) {
				t.Fatalf("%s has no %q", name, old)
			}
			must(t, os.WriteFile(a.at(name), []byte(strings.Replace(string(data), old, new, 1)), 0o644))
		}
	}
	remove := func(names ...string) func(*archive) {
		return func(a *archive) {
			for _, name := range names {
				must(t, os.Remove(a.at(name)))
			}
		}
	}
	a := newArchive(t)
	a.system()
	for name, c := range map[string]struct {
		fields string
		spoil  func(*archive)
		source func(*Source)
		want   string // "" for none
	}{
		"signed":           {},
		"detached":         {spoil: remove("InRelease")},
		"valid":            {fields: "Valid-Until: Sat, 01 Jan 2180 00:00:00 UTC\n"},
		"expired":          {fields: "Valid-Until: Sat, 01 Jan 2000 00:00:00 UTC\n", want: "the Release file is refused: it was valid until Sat, 01 Jan 2000"},
		"odd time":         {fields: "Valid-Until: tomorrow\n", want: `Valid-Until: "tomorrow" is no time`},
		"changed":          {spoil: change("InRelease", "Codename: test", "Codename: best"), want: "InRelease is refused: its signature: "},
		"added before":     {spoil: change("InRelease", "-----BEGIN PGP SIGNED", "Suite: other\n\n-----BEGIN PGP SIGNED")},
		"changed, outside": {spoil: func(a *archive) { remove("InRelease")(a); change("Release", "test", "best")(a) }, want: "Release is refused: its signature: "},
		"no signature":     {spoil: remove("InRelease", "Release.gpg"), want: "Release is refused, it is not signed: "},
		"plain InRelease":  {spoil: func(a *archive) { must(t, os.Rename(a.at("Release"), a.at("InRelease"))) }, want: "InRelease is refused: it is not signed"},
		"another key":      {source: func(s *Source) { s.Keyring = other.keyring() }, want: "InRelease is refused: its signature: "},
		"before the key":   {source: func(s *Source) { s.Now = time.Unix(1e9, 0) }, want: "InRelease is refused: its signature: "},
		"no keyring":       {source: func(s *Source) { s.Keyring = "/nowhere" }, want: "keyring: open /nowhere: no such file"},
		"unsigned":         {spoil: remove("InRelease", "Release.gpg"), source: func(s *Source) { s.AllowUnsigned = true }},
		"unsigned inline":  {spoil: change("InRelease", "Codename: test", "Codename: best"), source: func(s *Source) { s.AllowUnsigned = true; s.Suite = "test" }, want: "it is of \"best\""},
		"another suite":    {spoil: func(a *archive) { must(t, os.Rename(a.at(""), filepath.Join(a.dir, "dists/sid"))) }, source: func(s *Source) { s.Suite = "sid" }, want: `it is of "test" ("testing"), not of sid`},
		"no suite":         {source: func(s *Source) { s.Suite = "nope" }, want: "the mirror has no suite nope"},
		"architecture":     {source: func(s *Source) { s.Arch = "arm64" }, want: "it has no packages for arm64; there is amd64, all"},
		"component":        {source: func(s *Source) { s.Components = []string{"main", "contrib"} }, want: "it has no component contrib; there is main"},
		"index":            {spoil: change("main/binary-amd64/Packages.xz", "\xfd7zXZ", "\xfd7zXY"), want: "Packages.xz: its SHA256 is "},
		"index away":       {spoil: remove("main/binary-amd64/Packages.xz")},
		"no index":         {spoil: remove("main/binary-amd64/Packages.xz", "main/binary-amd64/Packages"), want: "there is no index main/binary-amd64/Packages"},
	} {
		a.publish(c.fields)
		if c.spoil != nil {
			c.spoil(a)
		}
		s := a.source()
		if c.source != nil {
			c.source(s)
		}
		_, err := fill(s)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err := os.Rename(filepath.Join(a.dir, "dists/sid"), a.at("")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	// A package that is another.
	a.publish("")
	deb := a.debs[0]
	data, err := os.ReadFile(deb)
	must(t, err)
	data[len(data)-1] ^= 1
	must(t, os.WriteFile(deb, data, 0o644))
	if _, err := fill(a.source()); err == nil || !strings.Contains(err.Error(), "core_1.0-1_amd64.deb: its SHA256 is ") {
		t.Errorf("a package that was changed: %v", err)
	}
}

// Over the network: what stops is gone on with, what is damaged is fetched again, what
// is in the cache is not asked for.
func TestNetwork(t *testing.T) {
	a := newArchive(t)
	a.system()
	a.publish("")
	var asked, bytesSent atomic.Int64
	var broken atomic.Bool
	files := http.FileServer(http.Dir(a.dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".deb") {
			files.ServeHTTP(w, r)
			return
		}
		asked.Add(1)
		if r.Header.Get("Range") == "" && broken.Load() { // half of it, then the connection ends
			data, err := os.ReadFile(filepath.Join(a.dir, r.URL.Path))
			if err == nil {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				n, _ := w.Write(data[:len(data)/2])
				bytesSent.Add(int64(n))
				w.(http.Flusher).Flush()
			}
			panic(http.ErrAbortHandler)
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	want, err := fill(a.source())
	must(t, err)
	cache := filepath.Join(t.TempDir(), "cache")
	get := func() *tree.Tree {
		t.Helper()
		s := a.source()
		s.Mirror, s.Cache = server.URL, cache
		all, err := fill(s)
		must(t, err)
		if names(t, all) != names(t, want) {
			t.Errorf("over the network it has %s", names(t, all))
		}
		return all
	}
	broken.Store(true)
	get()
	if n := asked.Load(); n != 10 || bytesSent.Load() == 0 {
		t.Errorf("5 packages, each cut in the middle, were asked for %d times", n)
	}
	broken.Store(false)
	asked.Store(0)
	get()
	if n := asked.Load(); n != 0 {
		t.Errorf("from the cache it asks for %d packages", n)
	}
	kept, err := filepath.Glob(filepath.Join(cache, "*"))
	must(t, err)
	for _, path := range kept {
		must(t, os.WriteFile(path, []byte("damaged"), 0o600))
	}
	get()
	if n := asked.Load(); n != 5 {
		t.Errorf("of a damaged cache %d packages are asked for, want 5", n)
	}
	s := a.source()
	s.Mirror, s.Cache = server.URL+"/nowhere", cache
	if _, err := fill(s); err == nil || !strings.Contains(err.Error(), "the mirror has no suite test") {
		t.Errorf("a mirror without it: %v", err)
	}
}
