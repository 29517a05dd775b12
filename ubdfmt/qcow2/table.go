package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
)

// An entry of an L1 or L2 table.
const (
	offsetMask = 1<<56 - 1<<9
	compressed = 1 << 62
	zeroFlag   = 1 << 0
)

// kind says where bytes of the disk are.
type kind uint8

const (
	kindAbsent     kind = iota // in the backing file, or zeros where there is none
	kindZero                   // nowhere: they are zeros
	kindPlain                  // in the image as they are
	kindCompressed             // in the image, compressed
)

// run is a range of the disk whose bytes are of one kind and, if plain, lie together.
type run struct {
	kind kind
	// host is where the bytes, or their compressed form, lie in the image.
	host int64
	// stored is how many bytes the compressed form takes at most.
	stored int64
	// n is the length of the range on the disk, in bytes.
	n int64
}

const (
	// sliceBytes is how much of an L2 table is read and kept at once.
	sliceBytes = 16 << 10
	// sliceCount bounds what is kept, together 4 MiB.
	sliceCount = 256
)

// slice is a part of an L2 table.
type slice struct {
	index int64 // of all slices of the disk
	data  []byte
}

// sliceCache keeps the slices read last, each in the one place that its index gives it.
type sliceCache [sliceCount]atomic.Pointer[slice]

// run returns what begins at off, up to end at the latest; off is below end.
func (im *Image) run(off, end int64) (run, error) {
	r, err := im.lookup(off)
	if err != nil {
		return run{}, err
	}
	// However much is alike, whoever asks has his say now and then.
	for steps := 0; steps < 1<<16 && r.kind != kindCompressed && r.n < end-off; steps++ {
		next, err := im.lookup(off + r.n)
		if err != nil {
			break // whoever reads on gets it
		}
		if next.kind != r.kind || r.kind == kindPlain && next.host != r.host+r.n {
			break
		}
		r.n += next.n
	}
	r.n = min(r.n, end-off)
	return r, nil
}

// lookup returns what begins at off, up to the end of its cluster, or part of a cluster,
// or, where there is no L2 table, of what the table would have stood for.
func (im *Image) lookup(off int64) (run, error) {
	h := &im.header
	i := off >> h.l1Bits()
	entry := im.l1[i]
	table := int64(entry & offsetMask)
	if table == 0 {
		return run{kind: kindAbsent, n: (i+1)<<h.l1Bits() - off}, nil
	}
	if table&(h.ClusterSize-1) != 0 {
		return run{}, im.bad("L1 entry", entry, "of the disk's offset %d is no multiple of the cluster size", off)
	}
	size := int64(8)
	if h.ExtendedL2 {
		size = 16
	}
	inTable := off >> h.clusterBits & (1<<h.l2Bits() - 1) * size
	data, err := im.slice(i, table, inTable/im.sliceLen)
	if err != nil {
		return run{}, err
	}
	data = data[inTable%im.sliceLen:]
	desc := binary.BigEndian.Uint64(data)
	inCluster := off & (h.ClusterSize - 1)
	if desc&compressed != 0 {
		return im.compressedRun(off, inCluster, desc)
	}
	host := int64(desc & offsetMask)
	if host&(h.ClusterSize-1) != 0 {
		return run{}, im.bad("L2 entry", desc, "of the disk's offset %d is no multiple of the cluster size", off)
	}
	r := run{host: host + inCluster, n: h.ClusterSize - inCluster}
	switch {
	case h.ExtendedL2:
		part := uint(inCluster >> (h.clusterBits - 5))
		r.n = int64(part+1)<<(h.clusterBits-5) - inCluster
		states := binary.BigEndian.Uint64(data[8:])
		allocated, zero := states>>part&1 != 0, states>>(part+32)&1 != 0
		switch {
		case allocated && (zero || host == 0):
			return run{}, im.bad("subcluster bitmap entry", states, "of the disk's offset %d contradicts itself", off)
		case allocated:
			r.kind = kindPlain
		case zero:
			r.kind = kindZero
		}
	case desc&zeroFlag != 0 && h.Version < 3:
		return run{}, im.bad("L2 entry", desc, "of the disk's offset %d has the zero flag, which version 2 lacks", off)
	case desc&zeroFlag != 0:
		r.kind = kindZero
	case host != 0:
		r.kind = kindPlain
	}
	if r.kind == kindPlain && host >= im.file.Size() {
		return run{}, im.bad("L2 entry", desc, "of the disk's offset %d lies behind the image's end, %d: the image is cut short", off, im.file.Size())
	}
	return r, nil
}

// compressedRun reads the descriptor of a compressed cluster.
func (im *Image) compressedRun(off, inCluster int64, desc uint64) (run, error) {
	x := 62 - (im.header.clusterBits - 8)
	host := int64(desc & (1<<x - 1))
	sectors := int64(desc>>x&(1<<(im.header.clusterBits-8)-1)) + 1
	if host >= im.file.Size() {
		return run{}, im.bad("L2 entry", desc, "of the disk's offset %d lies behind the image's end, %d: the image is cut short", off, im.file.Size())
	}
	stored := min(sectors*sectorSize-host%sectorSize, im.file.Size()-host)
	return run{kind: kindCompressed, host: host, stored: stored, n: im.header.ClusterSize - inCluster}, nil
}

// slice returns a slice of the L2 table of an L1 entry, which lies at table in the file.
func (im *Image) slice(l1 int64, table, nth int64) ([]byte, error) {
	index := l1*(im.header.ClusterSize/im.sliceLen) + nth
	place := &im.slices[index%sliceCount]
	if s := place.Load(); s != nil && s.index == index {
		return s.data, nil
	}
	at := table + nth*im.sliceLen
	if at > im.file.Size()-im.sliceLen {
		return nil, im.bad("L1 entry", im.l1[l1], "names an L2 table behind the image's end, %d: the image is cut short", im.file.Size())
	}
	s := &slice{index: index, data: make([]byte, im.sliceLen)}
	if _, err := im.file.ReadAt(s.data, at); err != nil {
		return nil, fmt.Errorf("read L2 table: %w", err)
	}
	place.Store(s)
	return s.data, nil
}

// readL1 reads the L1 table, as much of it as the disk needs.
func (im *Image) readL1() error {
	n := int64(im.header.l1Size) * 8
	if im.header.l1Offset > im.file.Size()-n {
		return im.bad("l1_table_offset", uint64(im.header.l1Offset), "and %d entries reach behind the image's end, %d: the image is cut short", im.header.l1Size, im.file.Size())
	}
	b := make([]byte, n)
	if _, err := im.file.ReadAt(b, im.header.l1Offset); err != nil && err != io.EOF {
		return fmt.Errorf("read L1 table: %w", err)
	}
	im.l1 = make([]uint64, im.header.l1Size)
	for i := range im.l1 {
		im.l1[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return nil
}

func (im *Image) bad(field string, value uint64, format string, a ...any) error {
	return withPath(bad(field, value, format, a...), im.path)
}
