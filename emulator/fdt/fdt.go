// Package fdt reads flattened device trees, which is what dtc(1) makes of a description
// of hardware. The format is that of the Devicetree Specification, chapter 5: a header, a
// list of reserved memory that nobody here asks for, a structure of tokens and a block of
// names.
package fdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// MaxSize bounds a blob, in bytes, as Linux does.
const MaxSize = 2 << 20

// maxDepth bounds how deep nodes stand in each other.
const maxDepth = 64

// Tree is a device tree that was read.
type Tree struct {
	Root *Node
	// Blob is what it was read from.
	Blob []byte
}

// Node is a node of the tree.
type Node struct {
	// Name is the name with the unit address: "led@1". That of the root is empty.
	Name       string
	Properties []Property
	Children   []*Node
}

// Property is a property of a node.
type Property struct {
	Name string
	// Value is a part of the blob. It may be empty.
	Value []byte
}

const (
	magic      = 0xd00dfeed
	headerSize = 40
	// oldest and newest are the versions whose structure this is.
	oldest, newest = 16, 17
)

// The tokens of the structure block.
const (
	beginNode = 1
	endNode   = 2
	property  = 3
	nop       = 4
	end       = 9
)

// ReadFile reads the tree in a file.
func ReadFile(name string) (*Tree, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > MaxSize {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", name, MaxSize)
	}
	blob := make([]byte, st.Size())
	if _, err := f.ReadAt(blob, 0); err != nil {
		return nil, err
	}
	t, err := Parse(blob)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// Parse reads a blob. The tree keeps it.
func Parse(blob []byte) (*Tree, error) {
	if len(blob) < headerSize {
		return nil, fmt.Errorf("%d bytes are no device tree", len(blob))
	}
	var h [10]uint32
	for i := range h {
		h[i] = binary.BigEndian.Uint32(blob[4*i:])
	}
	total, structs, names, version, compatible := h[1], h[2], h[3], h[5], h[6]
	switch {
	case h[0] != magic:
		return nil, fmt.Errorf("begins with %#08x in place of %#08x", h[0], uint32(magic))
	case version < oldest || compatible > newest:
		return nil, fmt.Errorf("version %d, readable from %d on: versions %d and %d are read", version, compatible, oldest, newest)
	case total > MaxSize || int64(total) > int64(len(blob)) || total < headerSize:
		return nil, fmt.Errorf("total size %d: the file has %d, and %d is the most", total, len(blob), MaxSize)
	case structs%4 != 0 || structs > total || names > total:
		return nil, fmt.Errorf("blocks at %d and %d of %d bytes", structs, names, total)
	}
	blob = blob[:total]
	p := &parser{text: blob[names:], tokens: blob[structs:], at: int(structs)}
	if namesSize := h[8]; int64(namesSize) > int64(len(p.text)) {
		return nil, fmt.Errorf("names of %d bytes at %d of %d", namesSize, names, total)
	} else {
		p.text = p.text[:namesSize]
	}
	if structSize := h[9]; version >= newest {
		if int64(structSize) > int64(len(p.tokens)) {
			return nil, fmt.Errorf("structure of %d bytes at %d of %d", structSize, structs, total)
		}
		p.tokens = p.tokens[:structSize]
	}
	root, err := p.tree()
	if err != nil {
		return nil, fmt.Errorf("at %#x: %w", p.at, err)
	}
	return &Tree{Root: root, Blob: blob}, nil
}

// parser walks over the structure block.
type parser struct {
	tokens []byte // what was not read
	text   []byte
	at     int // in the blob, for messages
}

var errShort = errors.New("the structure ends too early")

func (p *parser) word() (uint32, error) {
	b, err := p.take(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

// take reads n bytes, and what fills them up to a multiple of four.
func (p *parser) take(n int) ([]byte, error) {
	if n < 0 || n > len(p.tokens) {
		return nil, errShort
	}
	b := p.tokens[:n:n]
	n = min((n+3)&^3, len(p.tokens))
	p.tokens, p.at = p.tokens[n:], p.at+n
	return b, nil
}

// tree reads the root with all that is below it.
func (p *parser) tree() (*Node, error) {
	var root *Node
	var open []*Node // the nodes that stand in each other
	for {
		token, err := p.word()
		if err != nil {
			return nil, err
		}
		switch token {
		case nop:
		case beginNode:
			n, err := p.node(len(open) == 0)
			if err != nil {
				return nil, err
			}
			switch {
			case len(open) == maxDepth:
				return nil, fmt.Errorf("more than %d nodes in each other", maxDepth)
			case len(open) > 0:
				parent := open[len(open)-1]
				parent.Children = append(parent.Children, n)
			case root != nil:
				return nil, fmt.Errorf("a second root %q", n.Name)
			default:
				root = n
			}
			open = append(open, n)
		case endNode:
			if len(open) == 0 {
				return nil, errors.New("a node ends that did not begin")
			}
			open = open[:len(open)-1]
		case property:
			q, err := p.property()
			if err != nil {
				return nil, err
			}
			if len(open) == 0 {
				return nil, fmt.Errorf("property %q outside of a node", q.Name)
			}
			n := open[len(open)-1]
			n.Properties = append(n.Properties, q)
		case end:
			if root == nil || len(open) > 0 {
				return nil, errors.New("the structure ends within a node")
			}
			return root, nil
		default:
			return nil, fmt.Errorf("token %d is none", token)
		}
	}
}

func (p *parser) node(root bool) (*Node, error) {
	n := bytes.IndexByte(p.tokens, 0)
	if n < 0 {
		return nil, errors.New("the name of a node does not end")
	}
	b, err := p.take(n + 1)
	if err != nil {
		return nil, err
	}
	name := string(b[:n])
	if root {
		// Old compilers give the root the name "/".
		return &Node{}, nil
	}
	return &Node{Name: name}, checkName("node", name)
}

func (p *parser) property() (Property, error) {
	size, err := p.word()
	if err != nil {
		return Property{}, err
	}
	at, err := p.word()
	if err != nil {
		return Property{}, err
	}
	if int64(size) > int64(len(p.tokens)) {
		return Property{}, fmt.Errorf("a property of %d bytes is longer than the structure", size)
	}
	value, err := p.take(int(size))
	if err != nil {
		return Property{}, err
	}
	if int64(at) >= int64(len(p.text)) {
		return Property{}, fmt.Errorf("the name of a property lies at %d, behind the names", at)
	}
	n := bytes.IndexByte(p.text[at:], 0)
	if n < 0 {
		return Property{}, errors.New("the name of a property does not end")
	}
	name := string(p.text[at : int(at)+n])
	return Property{Name: name, Value: value}, checkName("property", name)
}

// maxName is a name's length, as that of a file.
const maxName = 255

// checkName refuses names that could be no file's.
func checkName(what, name string) error {
	if name == "" || len(name) > maxName || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of a %s", name, what)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }); i >= 0 {
		return fmt.Errorf("%q is no name of a %s: %q is in it", name, what, name[i])
	}
	return nil
}
