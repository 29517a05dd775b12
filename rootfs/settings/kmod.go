package settings

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/release"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// builtins are the parts of our machine that a Linux kernel can have as modules, by the
// paths that they have there. Programs ask for some of them (`modprobe hostfs`, `modprobe
// tun`) and are content to hear that they are built in.
var builtins = []string{
	"kernel/fs/ext4/ext4.ko",
	"kernel/fs/fuse/fuse.ko",
	"kernel/fs/hostfs/hostfs.ko",
	"kernel/fs/jbd2/jbd2.ko",
	"kernel/fs/mbcache.ko",
	"kernel/fs/overlayfs/overlay.ko",
	"kernel/drivers/net/tun.ko",
	"kernel/net/ipv6/ipv6.ko",
	"kernel/net/packet/af_packet.ko",
	"kernel/net/unix/unix.ko",
}

// ModulesRoot is where modules are in a guest. With a merged /usr, /lib is a symbolic
// link and stays one.
const ModulesRoot = "/lib/modules/"

// OwnModules makes the module directory of our own kernel, which has no modules: all
// files that modprobe, modinfo and depmod look for, saying what is built in.
type OwnModules struct{}

func (OwnModules) String() string { return "module directory of " + release.Name }

// Apply implements Setting.
func (OwnModules) Apply(t *tree.Tree) error {
	dir := &tree.Node{Mode: unix.S_IFDIR | 0o755}
	for _, f := range ownModules() {
		err := dir.Set(f.name, &tree.Node{Mode: unix.S_IFREG | 0o644, Size: int64(len(f.data)), Content: tree.Bytes(f.data)})
		if err != nil {
			return err
		}
	}
	return putModules(t, release.Name, dir)
}

// putModules puts the directory of one release into the tree.
func putModules(t *tree.Tree, name string, dir *tree.Node) error {
	if _, err := t.Mkdir(ModulesRoot); err != nil {
		return err
	}
	return t.Put(ModulesRoot+name, dir)
}

type moduleFile struct {
	name string
	data []byte
}

// ownModules are the files that depmod would leave for a kernel without modules.
func ownModules() []moduleFile {
	var list, info bytes.Buffer
	names := make([]string, 0, len(builtins))
	for _, p := range builtins {
		list.WriteString(p + "\n")
		name := strings.TrimSuffix(path.Base(p), ".ko")
		info.WriteString(name + ".file=" + strings.TrimSuffix(strings.TrimPrefix(p, "kernel/"), ".ko") + "\x00")
		names = append(names, strings.ReplaceAll(name, "-", "_"))
	}
	none := kmodIndex(nil)
	return []moduleFile{
		{"modules.alias", []byte("# Aliases extracted from modules themselves.\n")},
		{"modules.alias.bin", none},
		{"modules.builtin", list.Bytes()},
		{"modules.builtin.alias.bin", none},
		{"modules.builtin.bin", kmodIndex(names)},
		{"modules.builtin.modinfo", info.Bytes()},
		{"modules.dep", nil},
		{"modules.dep.bin", none},
		{"modules.devname", nil},
		{"modules.order", nil},
		{"modules.softdep", []byte("# Soft dependencies extracted from modules themselves.\n")},
		{"modules.symbols", []byte("# Aliases for symbols, used by symbol_request().\n")},
		{"modules.symbols.bin", none},
	}
}

// The form of kmod's *.bin files (libkmod-index.c): a magic number, a version and where the
// root node is, then nodes of a compressed trie, children before their parents. All
// numbers are big-endian. A place carries flags that say what the node there has, in
// this order: a prefix, ending in NUL; the first and the last character of its children, and
// a place for each character between them; the number of its values, and for each a
// priority and a text that ends in NUL.
const (
	kmodMagic   = 0xb007f457
	kmodVersion = 0x00020001

	kmodPrefix   = 0x80000000
	kmodValues   = 0x40000000
	kmodChildren = 0x20000000
)

// kmodIndex is an index of names without values of their own.
func kmodIndex(names []string) []byte {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	out := binary.BigEndian.AppendUint32(nil, kmodMagic)
	out = binary.BigEndian.AppendUint32(out, kmodVersion)
	out = binary.BigEndian.AppendUint32(out, 0)
	root := uint32(len(out))
	if len(names) > 0 {
		// The root has no prefix even when all names begin alike.
		out, root = kmodNode(out, names, 0)
	}
	binary.BigEndian.PutUint32(out[8:], root)
	return out
}

// kmodNode writes the node of sorted, different names that are alike up to depth, 0 for
// the root.
func kmodNode(out []byte, names []string, depth int) ([]byte, uint32) {
	end := depth
	if depth > 0 {
		for end < len(names[0]) && names[0][end] == names[len(names)-1][end] {
			end++
		}
	}
	prefix := names[0][depth:end]
	value := len(names[0]) == end
	rest := names
	if value {
		rest = names[1:]
	}
	var places []uint32
	var first, last byte
	if len(rest) > 0 {
		first, last = rest[0][end], rest[len(rest)-1][end]
		places = make([]uint32, int(last)-int(first)+1)
		for len(rest) > 0 {
			c := rest[0][end]
			n := 1
			for n < len(rest) && rest[n][end] == c {
				n++
			}
			out, places[c-first] = kmodNode(out, rest[:n], end+1)
			rest = rest[n:]
		}
	}
	at := uint32(len(out))
	if prefix != "" {
		at |= kmodPrefix
		out = append(append(out, prefix...), 0)
	}
	if places != nil {
		at |= kmodChildren
		out = append(out, first, last)
		for _, p := range places {
			out = binary.BigEndian.AppendUint32(out, p)
		}
	}
	if value {
		at |= kmodValues
		out = binary.BigEndian.AppendUint32(out, 1) // values
		out = binary.BigEndian.AppendUint32(out, 0) // priority
		out = append(out, 0)
	}
	return out, at
}
