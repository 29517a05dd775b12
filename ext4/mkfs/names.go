package mkfs

import (
	"hash/maphash"

	"github.com/umlkit/umlkit/ext4/format"
)

// names holds every name of the tree, in one list and one hash table: a name costs no allocation
// of its own. The seed differs from run to run; nothing that is written depends on it.
type names struct {
	seed  maphash.Seed
	list  []entry
	table []int32 // places in list, -1 for none; a power of two long
}

// entry is a name in a directory. The entries of a directory are chained in the order of Add.
type entry struct {
	dir, node *Node // node is nil once the name was removed
	name      string
	hash      uint32
	next      int32
}

func (t *names) hash(dir *Node, name string) uint32 {
	return uint32(maphash.String(t.seed, name)) ^ dir.ino*0x9E3779B1
}

// find is the place of a name in the list, -1 when there is none.
func (t *names) find(hash uint32, dir *Node, name string) int32 {
	if len(t.table) == 0 {
		return -1
	}
	mask := uint32(len(t.table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		at := t.table[i]
		if at < 0 {
			return -1
		}
		e := &t.list[at]
		if e.hash == hash && e.dir == dir && e.node != nil && e.name == name {
			return at
		}
	}
}

// add appends a name that is not there.
func (t *names) add(hash uint32, dir *Node, name string, n *Node) {
	if 2*(len(t.list)+1) > len(t.table) {
		t.grow()
	}
	at := int32(len(t.list))
	t.list = append(t.list, entry{dir: dir, node: n, name: name, hash: hash, next: -1})
	t.enter(hash, at)
	d := dir.dir
	if d.last < 0 {
		d.first = at
	} else {
		t.list[d.last].next = at
	}
	d.last = at
	d.count++
	d.bytes += int64(format.DirEntryLen(len(name)))
}

func (t *names) enter(hash uint32, at int32) {
	mask := uint32(len(t.table) - 1)
	i := hash & mask
	for t.table[i] >= 0 {
		i = (i + 1) & mask
	}
	t.table[i] = at
}

func (t *names) grow() {
	t.table = make([]int32, max(1024, 2*len(t.table)))
	for i := range t.table {
		t.table[i] = -1
	}
	for at := range t.list {
		t.enter(t.list[at].hash, int32(at))
	}
}

// remove makes a name one that nobody finds. It stays in the chain.
func (t *names) remove(at int32) {
	e := &t.list[at]
	e.node = nil
	e.dir.dir.count--
	e.dir.dir.bytes -= int64(format.DirEntryLen(len(e.name)))
}
