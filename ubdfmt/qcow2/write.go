package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/flate"
)

const (
	// WriteCluster is the cluster size of new images, QEMU's own choice, in bytes.
	WriteCluster = 64 << 10

	writeBits      = 16
	writeEntries   = WriteCluster / 8 // of an L1, L2 or refcount table's cluster
	refcountsBlock = WriteCluster / 2 // 16 bits each
	writeHeader    = 112
	copied         = 1 << 63 // the refcount is exactly one
	// compressWindow is how far back deflate may reach, as in what QEMU writes.
	compressWindow = 4 << 10
)

// WriterOptions say what a new image is to be.
type WriterOptions struct {
	// Size is the length of the disk in bytes, at most MaxSize.
	Size int64
	// Backing is the name of the backing file as the image is to hold it, "" for none,
	// and BackingFormat its format, "raw" or "qcow2".
	Backing, BackingFormat string
	// Compress makes of every cluster that gets smaller by it a compressed one.
	Compress bool
}

// MaxSize is the largest disk that is written: its L1 table is as large as QEMU reads.
const MaxSize = maxL1 * writeEntries * WriteCluster

// Writer makes a new image of version 3, from the disk's begin to its end. What is
// written is the same however many goroutines prepare and write batches, for Place gives
// each its place in the order of the disk.
type Writer struct {
	f    io.WriterAt
	o    WriterOptions
	l1   []uint64
	refs []uint16 // by cluster of the file
	next int64    // where the file goes on, in bytes

	table   []byte // the L2 table being filled
	tableOf int64  // its index in l1, -1 for none
	end     int64  // how far the disk is placed
}

// NewWriter begins an image in a new, empty file. It is none before Finish has returned.
func NewWriter(f io.WriterAt, o WriterOptions) (*Writer, error) {
	switch {
	case o.Size < 0 || o.Size%sectorSize != 0:
		return nil, fmt.Errorf("qcow2: a disk of %d bytes has no whole sectors", o.Size)
	case o.Size > MaxSize:
		return nil, fmt.Errorf("qcow2: a disk of %d bytes is larger than %d", o.Size, int64(MaxSize))
	case len(o.Backing) > maxName:
		return nil, fmt.Errorf("qcow2: the backing file's name has %d bytes, the limit is %d", len(o.Backing), maxName)
	}
	w := &Writer{f: f, o: o, tableOf: -1, l1: make([]uint64, ceilShift(o.Size, writeBits+13))}
	w.take(WriteCluster) // the header
	w.take(int64(len(w.l1)) * 8)
	return w, nil
}

// take gives out whole clusters at the end of the file.
func (w *Writer) take(n int64) (off int64) {
	w.next = roundUp(w.next)
	off = w.next
	w.next += roundUp(n)
	w.count(off, w.next-off)
	return off
}

// count adds a reference to the clusters that a range of the file touches.
func (w *Writer) count(off, n int64) {
	for i := off >> writeBits; i < (off+n+WriteCluster-1)>>writeBits; i++ {
		for int64(len(w.refs)) <= i {
			w.refs = append(w.refs, 0)
		}
		w.refs[i]++
	}
}

func roundUp(n int64) int64 { return (n + WriteCluster - 1) &^ (WriteCluster - 1) }

// State says what a cluster of a batch is.
type State uint8

// The states.
const (
	// Absent: the backing file shows it, or it is zeros where there is none.
	Absent State = iota
	// Zero: it is zeros, whatever the backing file has.
	Zero
	// Data is to be written.
	Data
)

// Batch is a number of clusters on their way into an image.
type Batch struct {
	w        *Writer
	off      int64
	b        []byte
	states   []State
	packed   [][]byte // by cluster, nil where it is not compressed
	hosts    []int64  // by cluster
	tables   [][]byte // L2 tables that the batch completed
	tableOff []int64
}

// Prepare takes b, the disk's content from off on, a multiple of WriteCluster, and says of
// each cluster what it is. b is the batch's until Write has returned. Any number of
// goroutines may call it at once.
func (w *Writer) Prepare(off int64, b []byte, states []State) (*Batch, error) {
	if n := (len(b) + WriteCluster - 1) / WriteCluster; off%WriteCluster != 0 || n != len(states) || off+int64(len(b)) > w.o.Size {
		return nil, fmt.Errorf("qcow2: a batch of %d bytes at %d in %d clusters", len(b), off, len(states))
	}
	t := &Batch{w: w, off: off, b: b, states: states}
	if !w.o.Compress {
		return t, nil
	}
	t.packed = make([][]byte, len(states))
	for i, s := range states {
		if s != Data {
			continue
		}
		var err error
		if t.packed[i], err = pack(t.cluster(i)); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Batch) cluster(i int) []byte {
	return t.b[i*WriteCluster : min(len(t.b), (i+1)*WriteCluster)]
}

type packer struct {
	out   limited
	flate *flate.Writer
	whole [WriteCluster]byte
}

// limited holds less than a cluster.
type limited struct{ b []byte }

var errTooLong = errors.New("not smaller")

func (l *limited) Write(p []byte) (int, error) {
	if len(l.b)+len(p) >= WriteCluster {
		return 0, errTooLong
	}
	l.b = append(l.b, p...)
	return len(p), nil
}

var packers = sync.Pool{New: func() any {
	p := new(packer)
	var err error
	if p.flate, err = flate.NewWriterWindow(&p.out, compressWindow); err != nil {
		panic(err) // the window is a constant
	}
	return p
}}

// pack compresses a cluster, or returns nil where that makes it no smaller.
func pack(b []byte) ([]byte, error) {
	p := packers.Get().(*packer)
	defer packers.Put(p)
	if len(b) < WriteCluster { // the disk's last: a reader wants a whole one
		clear(p.whole[copy(p.whole[:], b):])
		b = p.whole[:]
	}
	p.out.b = make([]byte, 0, WriteCluster/2)
	p.flate.Reset(&p.out)
	_, err := p.flate.Write(b)
	if err == nil {
		err = p.flate.Close()
	}
	if errors.Is(err, errTooLong) {
		return nil, nil
	}
	return p.out.b, err
}

// Place gives the batch its place in the file. Batches are placed one at a time, in the
// order of the disk; ranges between them are absent.
func (t *Batch) Place() error {
	w := t.w
	if t.off < w.end {
		return fmt.Errorf("qcow2: a batch at %d after one that ends at %d", t.off, w.end)
	}
	w.end = t.off + int64(len(t.b))
	t.hosts = make([]int64, len(t.states))
	for i, s := range t.states {
		if s == Absent {
			continue
		}
		at := (t.off + int64(i)*WriteCluster) >> writeBits
		if l1 := at / writeEntries; l1 != w.tableOf {
			t.closeTable()
			w.table, w.tableOf = make([]byte, WriteCluster), l1
		}
		entry := uint64(zeroFlag)
		if s == Data {
			t.hosts[i], entry = w.place(t, i)
		}
		binary.BigEndian.PutUint64(w.table[at%writeEntries*8:], entry)
	}
	if w.next > math.MaxInt64/256 { // the offsets of an entry
		return fmt.Errorf("qcow2: the image would have %d bytes", w.next)
	}
	return nil
}

// place gives a cluster with data its place and its L2 entry.
func (w *Writer) place(t *Batch, i int) (host int64, entry uint64) {
	if t.packed == nil || t.packed[i] == nil {
		host = w.take(WriteCluster)
		return host, uint64(host) | copied
	}
	n := int64(len(t.packed[i]))
	host = w.next
	w.next += n
	first, last := host/sectorSize, (host+n-1)/sectorSize
	w.count(first*sectorSize, (last-first+1)*sectorSize)
	const x = 62 - (writeBits - 8)
	return host, compressed | uint64(last-first)<<x | uint64(host)
}

// closeTable gives the L2 table that is full its place.
func (t *Batch) closeTable() {
	w := t.w
	if w.tableOf < 0 {
		return
	}
	off := w.take(WriteCluster)
	w.l1[w.tableOf] = uint64(off) | copied
	t.tables, t.tableOff = append(t.tables, w.table), append(t.tableOff, off)
	w.tableOf = -1
}

// Write writes a batch that has its place. Any number of goroutines may call it at once.
func (t *Batch) Write() error {
	for i, table := range t.tables {
		if _, err := t.w.f.WriteAt(table, t.tableOff[i]); err != nil {
			return err
		}
	}
	for i := 0; i < len(t.states); i++ {
		if t.states[i] != Data {
			continue
		}
		if t.packed != nil && t.packed[i] != nil {
			if _, err := t.w.f.WriteAt(t.packed[i], t.hosts[i]); err != nil {
				return err
			}
			continue
		}
		// What lies together is written together.
		last := i
		for last+1 < len(t.states) && t.states[last+1] == Data && (t.packed == nil || t.packed[last+1] == nil) && t.hosts[last+1] == t.hosts[last]+WriteCluster {
			last++
		}
		if _, err := t.w.f.WriteAt(t.b[i*WriteCluster:min(len(t.b), (last+1)*WriteCluster)], t.hosts[i]); err != nil {
			return err
		}
		i = last
	}
	return nil
}

// Finish writes the tables and, last, the header, when every batch is written. The file is
// not made stable.
func (w *Writer) Finish() error {
	last := &Batch{w: w}
	last.closeTable()
	if err := last.Write(); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(bigEndian64(w.l1), WriteCluster); err != nil {
		return err
	}
	// The reference counts count their own clusters too.
	w.next = roundUp(w.next)
	used := w.next >> writeBits
	blocks, table := int64(1), int64(1)
	for need := used + blocks + table; need > blocks*refcountsBlock || blocks > table*writeEntries; need = used + blocks + table {
		blocks = (need + refcountsBlock - 1) / refcountsBlock
		table = (blocks + writeEntries - 1) / writeEntries
	}
	tableOff := w.take(table << writeBits)
	blocksOff := w.take(blocks << writeBits)
	entries := make([]uint64, table*writeEntries)
	for i := range blocks {
		entries[i] = uint64(blocksOff + i<<writeBits)
	}
	if _, err := w.f.WriteAt(bigEndian64(entries), tableOff); err != nil {
		return err
	}
	block := make([]byte, WriteCluster)
	for i := range blocks {
		clear(block)
		for j, n := range w.refs[min(int64(len(w.refs)), i*refcountsBlock):min(int64(len(w.refs)), (i+1)*refcountsBlock)] {
			binary.BigEndian.PutUint16(block[j*2:], n)
		}
		if _, err := w.f.WriteAt(block, blocksOff+i<<writeBits); err != nil {
			return err
		}
	}
	_, err := w.f.WriteAt(w.header(tableOff, table), 0)
	return err
}

func bigEndian64(v []uint64) []byte {
	b := make([]byte, len(v)*8)
	for i := range v {
		binary.BigEndian.PutUint64(b[i*8:], v[i])
	}
	return b
}

// header is the first cluster, without the zeros behind the backing file's name.
func (w *Writer) header(refcounts, refcountClusters int64) []byte {
	be := binary.BigEndian
	b := make([]byte, writeHeader, writeHeader+2*maxName)
	be.PutUint32(b, magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], writeBits)
	be.PutUint64(b[24:], uint64(w.o.Size))
	be.PutUint32(b[36:], uint32(len(w.l1)))
	be.PutUint64(b[40:], WriteCluster)
	be.PutUint64(b[48:], uint64(refcounts))
	be.PutUint32(b[56:], uint32(refcountClusters))
	be.PutUint32(b[96:], 4) // 16 bits
	be.PutUint32(b[100:], writeHeader)
	if w.o.Backing == "" {
		return append(b, make([]byte, 8)...) // the end of the extensions
	}
	b = be.AppendUint32(b, extensionFormat)
	b = be.AppendUint32(b, uint32(len(w.o.BackingFormat)))
	b = append(b, w.o.BackingFormat...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b = append(b, make([]byte, 8)...)
	be.PutUint64(b[8:], uint64(len(b)))
	be.PutUint32(b[16:], uint32(len(w.o.Backing)))
	return append(b, w.o.Backing...)
}
