package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// shiftCalls collapses and inserts ranges of files.
func shiftCalls(d string) {
	const collapse, insert, keep = unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_KEEP_SIZE
	f := d + "/f"
	must(os.WriteFile(f, pattern(100000, 1), 0o644))
	fd := open(f, unix.O_RDWR, 0)
	check := func(what string, mode uint32, off, n int64) {
		err := unix.Fallocate(fd, mode, off, n)
		sum := uint64(0)
		for i, c := range []byte(read(f)) {
			sum += uint64(c) * uint64(i+1)
		}
		must(unix.Fsync(fd))
		var st unix.Stat_t
		must(unix.Fstat(fd, &st))
		show(fmt.Sprintf("%s %d %d", what, off, n), err, st.Size, st.Blocks, sum)
	}
	check("collapse", collapse, 4096, 8192)
	check("collapse at start", collapse, 0, 4096)
	check("collapse part of block", collapse, 100, 4096)
	check("collapse of part", collapse, 4096, 100)
	check("collapse to end", collapse, 81920, 8192)
	check("collapse over end", collapse, 8192, 1<<20)
	check("collapse nothing", collapse, 0, 0)
	check("collapse keep", collapse|keep, 0, 4096)
	check("collapse and insert", collapse|insert, 0, 4096)
	check("collapse and punch", collapse|unix.FALLOC_FL_PUNCH_HOLE|keep, 0, 4096)
	check("insert", insert, 8192, 4096)
	check("insert at start", insert, 0, 16384)
	check("insert at end", insert, stat(f).Size&^4095+4096, 4096)
	check("insert in last block", insert, stat(f).Size&^4095, 4096)
	check("insert far behind", insert, 1<<30, 4096)
	check("insert part of block", insert, 100, 4096)
	check("insert keep", insert|keep, 0, 4096)
	check("insert to the limit", insert, 4096, 1<<44-8192)
	check("insert beyond start", insert, -4096, 4096)
	check("insert much", insert, 4096, 1<<24)
	check("collapse much", collapse, 4096, 1<<24)
	check("allocate behind end", keep, 200000, 100000)
	check("collapse with blocks behind end", collapse, 0, 4096)
	check("insert with blocks behind end", insert, 4096, 4096)

	// With mappings, which were stored to.
	m, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	p, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(err)
	for i := range m {
		m[i] = byte(i>>12) + 1
	}
	p[0], p[40960], p[61440] = 100, 101, 102
	pages := func(what string) {
		var shared, private []byte
		for i := 0; i < len(m); i += 4096 {
			shared, private = append(shared, m[i]+'@'), append(private, p[i]+'@')
		}
		show(what, shared, private)
	}
	pages("stored")
	check("collapse to end under mapping", collapse, 8192, 1<<30)
	check("insert in part of block under mapping", insert, 8192, 100)
	pages("refused")
	check("collapse under mapping", collapse, 8192, 12288)
	pages("collapsed")
	if !noExtents(fd) { // else the private mapping has kept its pages, and what limits.md says shows
		m[20480] = 30
	}
	check("insert under mapping", insert, 16384, 16384)
	pages("inserted")
	m[16384+300] = 9
	pages("stored in hole")
	check("after it", keep, 0, 4096)
	unix.Munmap(m)
	unix.Munmap(p)
	a := open(f, unix.O_RDONLY, 0)
	show("read-only", unix.Fallocate(a, collapse, 0, 4096))
	unix.Close(a)
	unix.Close(fd)
	// Many pieces.
	must(os.Remove(f))
	fd = open(f, unix.O_CREAT|unix.O_RDWR, 0o644)
	for i := range 1000 {
		unix.Pwrite(fd, []byte{byte(i), byte(i >> 8)}, int64(i)*8192)
	}
	unix.Ftruncate(fd, 8192000)
	sums := func(what string, err error) {
		sum := uint64(0)
		for i, c := range []byte(read(f)) {
			sum += uint64(c) * uint64(i+1)
		}
		show(what, err, stat(f).Size, sum)
	}
	sums("pieces", nil)
	sums("collapse of pieces", unix.Fallocate(fd, collapse, 40960, 1<<20))
	sums("insert among pieces", unix.Fallocate(fd, insert, 4096, 1<<20))
	sums("insert within a piece", unix.Fallocate(fd, insert, 3<<20, 4096))
	unix.Close(fd)
}
