package tarball

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Package unpacks the files of a Debian package over a tree as dpkg does: a directory
// that is there stays as it is, also where it is a symbolic link to one, and a
// configuration file gets a name behind which dpkg finds it when it configures the
// package. It is used once.
type Package struct {
	// New is where a file goes in the place of its own name, by that (no slash before
	// it): where a configuration file or a diversion leads. It may be nil.
	New map[string]string

	// Names are what the package has, in the order of the archive, with a slash before
	// each and "/." for the root: the content of info/NAME.list.
	Names []string
}

// Add reads the archive from its beginning to its end. The name is for messages.
func (p *Package) Add(ctx context.Context, name string, t *tree.Tree, store tree.Store, r io.Reader) error {
	s := &Source{Path: name, unpack: p}
	return s.fill(ctx, t, store, &stream{r: r})
}

// place is where an entry goes.
func (p *Package) place(name string) (string, error) {
	path, err := Clean(name)
	if err != nil {
		return "", err
	}
	if path == "" {
		p.Names = append(p.Names, "/.")
		return "", nil
	}
	p.Names = append(p.Names, "/"+path)
	if to, ok := p.New[path]; ok {
		return to, nil
	}
	return path, nil
}

func (p *Package) put(t *tree.Tree, hdr *tar.Header, n *tree.Node) error {
	path, err := p.place(hdr.Name)
	if err != nil {
		return err
	}
	if n == nil {
		return errors.New("a directory of GNU tar's with a list of names, which no package has")
	}
	if path == "" {
		if !n.IsDir() {
			return errors.New("the root is no directory")
		}
		return nil
	}
	if n.IsDir() {
		if old, err := t.Lookup(path, true); err == nil && old.IsDir() {
			return nil
		}
	}
	if old, err := t.Lookup(path, false); err == nil && old.IsDir() != n.IsDir() {
		if n.IsSymlink() {
			if there, err := t.Lookup(path, true); err == nil && there.IsDir() {
				return nil // dpkg never turns a directory into a link
			}
		}
		return fmt.Errorf("/%s is a directory in one package and not in another", path)
	}
	return t.Put(path, n)
}

func (p *Package) link(t *tree.Tree, hdr *tar.Header) error {
	path, err := p.place(hdr.Name)
	if err != nil {
		return err
	}
	to, err := Clean(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	if other, ok := p.New[to]; ok {
		to = other
	}
	n, err := t.Lookup(to, false)
	if err != nil || n.IsDir() {
		return fmt.Errorf("hard link to %q, which is no file that came before", to)
	}
	if same, err := t.Lookup(path, false); err == nil && same == n {
		return nil
	}
	return t.Put(path, n)
}
