// Package settings edits a root file system before it becomes an image: what every
// guest of User Mode Linux needs to boot (fstab, host name, consoles, our kernel's
// module directory), and what the user asks for (root's password, network interfaces,
// modules).
//
// The editors of file formats are functions from bytes to bytes: what they do not
// have to change they leave as it is, comments and unknown lines too.
package settings

import (
	"bytes"
	"fmt"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Setting is one thing that is edited.
type Setting interface {
	// Apply edits the tree.
	Apply(t *tree.Tree) error

	// String names the setting in messages.
	String() string
}

// fileMax is the largest file that is edited, in bytes. The files in question have
// some hundreds.
const fileMax = 4 << 20

// read is a file of the tree, nil when there is none.
func read(t *tree.Tree, path string) ([]byte, error) {
	data, err := t.ReadFile(path, fileMax)
	if tree.Missing(err) {
		return nil, nil
	}
	return data, err
}

// edit replaces a file by what change makes of it, unless that is the same. A missing
// file is empty to change and made with the mode.
func edit(t *tree.Tree, path string, perm uint32, change func([]byte) ([]byte, error)) error {
	old, err := read(t, path)
	if err != nil {
		return err
	}
	data, err := change(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(old, data) {
		return nil
	}
	return t.WriteFile(path, data, perm)
}

// lines cuts a file into lines without their ends.
func lines(data []byte) []string {
	data = bytes.TrimSuffix(data, []byte("\n"))
	if len(data) == 0 {
		return nil
	}
	var out []string
	for _, l := range bytes.Split(data, []byte("\n")) {
		out = append(out, string(l))
	}
	return out
}

// join makes a file of lines.
func join(lines []string) []byte {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.Bytes()
}
