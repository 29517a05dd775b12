package fdt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Bytes is the value of a property.
func (n *Node) Bytes(name string) (value []byte, ok bool) {
	for _, p := range n.Properties {
		if p.Name == name {
			return p.Value, true
		}
	}
	return nil, false
}

// Strings is the list of strings that a property is.
func (n *Node) Strings(name string) ([]string, bool) {
	value, ok := n.Bytes(name)
	if !ok || len(value) == 0 || value[len(value)-1] != 0 {
		return nil, false
	}
	return strings.Split(string(value[:len(value)-1]), "\x00"), true
}

// Text is the string that a property is.
func (n *Node) Text(name string) (string, bool) {
	list, ok := n.Strings(name)
	if !ok || len(list) != 1 {
		return "", false
	}
	return list[0], true
}

// Cell is the number of 32 bits that a property is.
func (n *Node) Cell(name string) (uint32, bool) {
	value, ok := n.Bytes(name)
	if !ok || len(value) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(value), true
}

// Enabled reports whether a node's status lets its device be used.
func (n *Node) Enabled() bool {
	status, ok := n.Bytes("status")
	return !ok || bytes.Equal(status, []byte("okay\x00")) || bytes.Equal(status, []byte("ok\x00"))
}

// Compatible are the nodes that a driver of that name serves, in the tree's order,
// without those that are disabled. A nil tree has none.
func (t *Tree) Compatible(driver string) []*Node {
	if t == nil {
		return nil
	}
	var found []*Node
	t.Root.walk(func(n *Node) {
		if list, ok := n.Strings("compatible"); ok && slices.Contains(list, driver) && n.Enabled() {
			found = append(found, n)
		}
	})
	return found
}

func (n *Node) walk(visit func(*Node)) {
	visit(n)
	for _, c := range n.Children {
		c.walk(visit)
	}
}

// File is a node or a property as a directory or file.
type File struct {
	Name string
	// Node is a directory's node, nil for a file; Value are a file's bytes.
	Node  *Node
	Value []byte
}

// Files lists a node as Linux's /proc/device-tree shows it: its properties, the property
// "name" that old trees had, and its children. Of two of one name the second gets "#1".
func (n *Node) Files() []File {
	var files []File
	seen := make(map[string]bool)
	add := func(f File) {
		name := f.Name
		for i := 1; seen[f.Name]; i++ {
			f.Name = fmt.Sprintf("%s#%d", name, i)
		}
		seen[f.Name] = true
		files = append(files, f)
	}
	for _, p := range n.Properties {
		add(File{Name: p.Name, Value: p.Value})
	}
	if _, ok := n.Bytes("name"); !ok {
		name, _, _ := strings.Cut(n.Name, "@")
		add(File{Name: "name", Value: []byte(name + "\x00")})
	}
	for _, c := range n.Children {
		add(File{Name: c.Name, Node: c})
	}
	return files
}
