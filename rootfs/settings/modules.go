package settings

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/compression"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Modules are kernel modules of this machine, for guests that also boot a kernel that
// has modules. They arrive as root's.
type Modules struct {
	dir      string
	source   *hostdir.Source
	releases []tree.Entry
}

// ReadModules reads module directories in one of three forms:
//
//   - RELEASE/modules.dep ..., as /usr/lib/uml/modules is;
//   - lib/modules/RELEASE/modules.dep ..., as INSTALL_MOD_PATH makes it;
//   - modules.dep and kernel/ themselves, as MODLIB makes it: then a module says of which
//     release it is.
func ReadModules(ctx context.Context, dir string) (*Modules, error) {
	m := &Modules{dir: dir}
	from := dir
	for _, below := range []string{"lib/modules", "usr/lib/modules"} {
		if info, err := os.Stat(filepath.Join(dir, below)); err == nil && info.IsDir() {
			from = filepath.Join(dir, below)
			break
		}
	}
	m.source = &hostdir.Source{Path: from, OneFileSystem: true} // the x of cp -rax
	t := tree.New()
	if err := m.source.Fill(ctx, t, nil); err != nil {
		m.Close()
		return nil, err
	}
	if err := m.find(t); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close lets go of the directory, after the image was written.
func (m *Modules) Close() error { return m.source.Close() }

func (m *Modules) String() string { return "modules of " + m.dir }

// isRelease says whether a directory is that of one release.
func isRelease(n *tree.Node) bool {
	if !n.IsDir() {
		return false
	}
	for _, name := range []string{"modules.dep", "modules.order", "modules.builtin", "kernel"} {
		if n.Child(name) != nil {
			return true
		}
	}
	return false
}

func (m *Modules) find(t *tree.Tree) error {
	own := func(_ string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		n.UID, n.GID = 0, 0
		return nil
	}
	if err := t.Walk(own); err != nil {
		return err
	}
	t.Root.UID, t.Root.GID = 0, 0
	if isRelease(t.Root) {
		name, err := vermagic(t)
		if err != nil {
			return err
		}
		if name == "" {
			abs, err := filepath.Abs(m.dir)
			if err != nil {
				return err
			}
			name = filepath.Base(abs)
		}
		if err := tree.CheckName(name); err != nil {
			return fmt.Errorf("%s: no module tells its release: %w", m.dir, err)
		}
		m.releases = []tree.Entry{{Name: name, Node: t.Root}}
		return nil
	}
	found := false
	for _, e := range t.Root.Entries() {
		found = found || isRelease(e.Node)
	}
	if !found {
		return fmt.Errorf("%s holds no kernel modules: neither RELEASE/modules.dep, nor lib/modules/RELEASE, nor kernel/ and modules.dep", m.dir)
	}
	m.releases = t.Root.Entries()
	for _, e := range m.releases {
		t.Root.Take(e.Name)
	}
	return nil
}

// Apply implements Setting.
func (m *Modules) Apply(t *tree.Tree) error {
	for _, r := range m.releases {
		if err := putModules(t, r.Name, r.Node); err != nil {
			return err
		}
	}
	return nil
}

// vermagicMax bounds how much of a module is read, unpacked, in bytes.
const vermagicMax = 64 << 20

// vermagic finds the release in the first module that tells it: "vermagic=RELEASE SMP
// ...", NUL-terminated in its section .modinfo.
func vermagic(t *tree.Tree) (string, error) {
	name := ""
	err := t.Walk(func(path string, _ *tree.Node, base string, n *tree.Node, _ bool) error {
		if name != "" || !n.IsRegular() || !strings.HasSuffix(base, ".ko") && !strings.Contains(base, ".ko.") || n.Size > vermagicMax {
			return nil
		}
		data, err := n.Read()
		if err != nil {
			return err
		}
		r, err := compression.NewReader(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer r.Close()
		if data, err = io.ReadAll(io.LimitReader(r, vermagicMax)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		_, rest, ok := bytes.Cut(data, []byte("vermagic="))
		if !ok {
			return nil
		}
		end := bytes.IndexAny(rest[:min(len(rest), unix.NAME_MAX)], " \x00")
		if end > 0 {
			name = string(rest[:end])
		}
		return nil
	})
	return name, err
}
