package volume

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ext4/format"
)

// maxLinks is how many symbolic links one path may lead through, as in the kernel.
const maxLinks = 40

// maxPath bounds a path with all the links that it leads through, in bytes: links can
// lengthen it by 4 KiB each.
const maxPath = 256 << 10

// Place is where a path leads: a name in a directory, and the file there, nil when it is
// missing. The root, and a path that ends with "..", have neither directory nor name.
type Place struct {
	Dir  Node
	Name string
	Node Node
}

// Close lets go of the place's nodes.
func (p *Place) Close() error {
	var errs []error
	for _, n := range []Node{p.Dir, p.Node} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	*p = Place{}
	return errors.Join(errs...)
}

// IsDir says whether the place is a directory that is there.
func (p *Place) IsDir() bool { return p.Node != nil && isDir(p.Node) }

// Walk goes along a path from the root. Symbolic links on the way are followed; one at the
// end is where follow is set, or a slash stands behind it. Only the last part may be
// missing. Errors are those of open(2), with the path.
func (v *Volume) Walk(p string, follow bool) (Place, error) {
	root, err := v.Root()
	if err != nil {
		return Place{}, err
	}
	defer root.Close()
	return walk(root, root, p, follow)
}

// walk goes along a path from a directory.
func walk(root, from Node, p string, follow bool) (Place, error) {
	if strings.HasPrefix(p, "/") {
		from = root
	}
	at, err := again(from)
	if err != nil {
		return Place{}, err
	}
	cur := Place{Node: at}
	fail := func(err error) (Place, error) {
		cur.Close()
		var no unix.Errno
		if errors.As(err, &no) {
			switch no {
			case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EINVAL:
				err = no // the engine's own words say no more
			}
		}
		return Place{}, &PathError{Path: p, Err: err}
	}
	if strings.ContainsRune(p, 0) {
		return fail(unix.EINVAL)
	}
	todo := steps(p)
	mustDir := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	links, bytes := 0, len(p)
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if cur.Node == nil {
			return fail(unix.ENOENT)
		}
		if !isDir(cur.Node) {
			return fail(unix.ENOTDIR)
		}
		if len(name) > format.MaxName {
			return fail(unix.ENAMETOOLONG)
		}
		child, err := cur.Node.Lookup(name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fail(err)
		}
		if child != nil && child.Attr().Mode&format.ModeType == format.ModeSymlink && (len(todo) > 0 || follow || mustDir) {
			target, err := child.Readlink()
			child.Close()
			if err != nil {
				return fail(err)
			}
			if bytes += len(target); bytes > maxPath {
				return fail(unix.ENAMETOOLONG)
			}
			if links++; links > maxLinks {
				return fail(unix.ELOOP)
			}
			if target == "" {
				return fail(unix.ENOENT)
			}
			if strings.HasPrefix(target, "/") {
				at, err := again(root)
				if err != nil {
					return fail(err)
				}
				cur.Close()
				cur = Place{Node: at}
			}
			if len(todo) == 0 && strings.HasSuffix(target, "/") {
				mustDir = true
			}
			todo = append(todo, steps(target)...)
			continue
		}
		if cur.Dir != nil {
			cur.Dir.Close()
		}
		cur = Place{Dir: cur.Node, Name: name, Node: child}
		if name == ".." {
			cur.Dir.Close()
			cur = Place{Node: child}
		}
	}
	if mustDir && cur.Node != nil && !isDir(cur.Node) {
		return fail(unix.ENOTDIR)
	}
	return cur, nil
}

// steps are the parts of a path, the first one last.
func steps(p string) []string {
	parts := slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
	slices.Reverse(parts)
	return parts
}

// again is the same directory once more, to be closed by itself.
func again(n Node) (Node, error) {
	switch n := n.(type) {
	case Ext:
		n.Ref()
		return n, nil
	case *mediaNode:
		return n, nil
	}
	return nil, fmt.Errorf("no such node: %T", n)
}

// PathError is an error at a path of the volume.
type PathError struct {
	Path string
	Err  error
}

// Error is path and cause.
func (e *PathError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *PathError) Unwrap() error { return e.Err }

// Find is the file at a path, which must be there.
func (v *Volume) Find(p string, follow bool) (Node, error) {
	at, err := v.Walk(p, follow)
	if err != nil {
		return nil, err
	}
	if at.Node == nil {
		at.Close()
		return nil, &PathError{Path: p, Err: unix.ENOENT}
	}
	n := at.Node
	at.Node = nil
	return n, at.Close()
}

// maxMatches bounds what a pattern may give.
const maxMatches = 1 << 20

// Glob expands a pattern of the shell's: "*", "?", "[a-z]", "[!a]", and "\" before what is
// to stand for itself. A name that begins with a dot wants the dot in the pattern. What is
// no pattern, and a pattern that matches nothing, is given back as it is, without its
// backslashes. Matches come in the order of their bytes.
func (v *Volume) Glob(pattern string) ([]string, error) {
	if !hasMeta(pattern) {
		return []string{unescape(pattern)}, nil
	}
	found := []string{""}
	if strings.HasPrefix(pattern, "/") {
		found[0] = "/"
	}
	parts := strings.FieldsFunc(pattern, func(r rune) bool { return r == '/' })
	for _, part := range parts {
		var next []string
		for _, dir := range found {
			if !hasMeta(part) {
				next = append(next, path.Join(dir, unescape(part)))
				continue
			}
			names, err := v.names(dir)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if matchName(part, name) {
					next = append(next, path.Join(dir, name))
				}
			}
			if len(next) > maxMatches {
				return nil, fmt.Errorf("%.100q matches more than %d names", pattern, maxMatches)
			}
		}
		found = next
	}
	// What stands behind the last pattern need not be there everywhere.
	kept := found[:0]
	for _, p := range found {
		at, err := v.Walk(p, false)
		if err != nil && !missing(err) {
			return nil, err
		}
		if err == nil && at.Node != nil {
			if strings.HasSuffix(pattern, "/") {
				p += "/"
			}
			kept = append(kept, p)
		}
		at.Close()
	}
	if len(kept) == 0 {
		return []string{unescape(pattern)}, nil
	}
	return kept, nil
}

// names are a directory's entries; none for what is no directory.
func (v *Volume) names(dir string) ([]string, error) {
	if dir == "" {
		dir = "/"
	}
	n, err := v.Find(dir, true)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer n.Close()
	if !isDir(n) {
		return nil, nil
	}
	return n.Names()
}

// missing says that a path does not lead anywhere.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func hasMeta(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func matchName(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".") && !strings.HasPrefix(pattern, `\.`) {
		return false
	}
	return Match(pattern, name)
}

// Match says whether a name matches a pattern of the shell's. A pattern that makes no
// sense matches what is written like it.
func Match(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), name)
	if err != nil {
		return pattern == name
	}
	return ok
}
