package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// fsxSize bounds the file of fsx.
const fsxSize = 1 << 20

// fsx does random operations on one file, through descriptors and mappings, and
// compares every byte that it reads with a model in memory.
func fsx(d string, seed int64, ops int) int {
	rnd := rand.New(rand.NewSource(seed))
	f := fmt.Sprintf("%s/fsx-%d", d, seed)
	model := []byte{}
	fd := open(f, unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR, 0o644)
	other := open(f, unix.O_RDWR, 0)
	block := int(stat(f).Blksize)
	var log []string
	fail := func(format string, args ...any) int {
		fmt.Printf("fsx seed %d: %s\n", seed, fmt.Sprintf(format, args...))
		for _, l := range log[max(0, len(log)-30):] {
			fmt.Println("  ", l)
		}
		return 1
	}
	grow := func(n int) {
		if n > len(model) {
			model = append(model, make([]byte, n-len(model))...)
		}
	}
	compare := func(what string, got []byte, off int) int {
		want := model[off:min(off+len(got), len(model))]
		for i := range got {
			w := byte(0)
			if i < len(want) {
				w = want[i]
			}
			if got[i] != w {
				return fail("%s at %d: byte %d is %#x, should be %#x (size %d)", what, off, off+i, got[i], w, len(model))
			}
		}
		return 0
	}
	for op := range ops {
		off := rnd.Intn(fsxSize - 1)
		if rnd.Intn(3) == 0 {
			off &^= 4095
		}
		n := 1 + rnd.Intn(fsxSize-off)
		switch rnd.Intn(3) {
		case 0:
			n = min(n, 1+rnd.Intn(64))
		case 1:
			n = min(n, 1+rnd.Intn(20000))
		}
		h := fd
		if rnd.Intn(2) == 0 {
			h = other
		}
		data := make([]byte, n)
		rnd.Read(data)
		kind := rnd.Intn(18)
		log = append(log, fmt.Sprintf("%d: op %d off %d n %d size %d", op, kind, off, n, len(model)))
		switch kind {
		case 0, 1, 2: // write
			if m, err := unix.Pwrite(h, data, int64(off)); m != n || err != nil {
				return fail("write: %d %v", m, err)
			}
			grow(off + n)
			copy(model[off:], data)
		case 3, 4, 5: // read
			if off >= len(model) {
				continue
			}
			got := make([]byte, n)
			m, err := unix.Pread(h, got, int64(off))
			if want := min(n, len(model)-off); err != nil || m != want {
				return fail("read: %d %v, should be %d", m, err, want)
			}
			if r := compare("read", got[:m], off); r != 0 {
				return r
			}
		case 6, 7, 8: // mapped read, or write
			if len(model) == 0 {
				continue
			}
			start := off % len(model)
			end := min(start+n, len(model))
			page := start &^ 4095
			prot, flags := unix.PROT_READ, unix.MAP_SHARED
			if kind == 7 {
				prot |= unix.PROT_WRITE
			}
			if kind == 8 {
				flags = unix.MAP_PRIVATE
			}
			m, err := unix.Mmap(h, int64(page), end-page, prot, flags)
			if err != nil {
				return fail("mmap: %v", err)
			}
			if r := compare("mapping", m[start-page:end-page], start); r != 0 {
				return r
			}
			if kind == 7 {
				copy(m[start-page:end-page], data)
				copy(model[start:end], data)
				// What a store leaves after the end must not come to light.
				full := m[:cap(m)]
				for i := end - page; i < len(full) && end == len(model); i++ {
					full[i] = 0xee
				}
				if rnd.Intn(4) == 0 {
					unix.Msync(m, unix.MS_SYNC)
				}
			}
			must(unix.Munmap(m))
		case 9, 10: // truncate
			size := off
			if err := unix.Ftruncate(h, int64(size)); err != nil {
				return fail("truncate: %v", err)
			}
			if size < len(model) {
				model = model[:size:size]
			}
			grow(size)
		case 11: // punch
			if err := unix.Fallocate(h, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)); err != nil {
				return fail("punch: %v", err)
			}
			if off < len(model) {
				clear(model[off:min(off+n, len(model))])
			}
		case 12: // zero
			keep := uint32(rnd.Intn(2)) * unix.FALLOC_FL_KEEP_SIZE
			switch err := unix.Fallocate(h, unix.FALLOC_FL_ZERO_RANGE|keep, int64(off), int64(n)); {
			case err == unix.EOPNOTSUPP && noExtents(fd):
				continue
			case err != nil:
				return fail("zero: %v", err)
			}
			if keep == 0 {
				grow(off + n)
			}
			if off < len(model) {
				clear(model[off:min(off+n, len(model))])
			}
		case 13: // allocate
			keep := uint32(rnd.Intn(2)) * unix.FALLOC_FL_KEEP_SIZE
			switch err := unix.Fallocate(h, keep, int64(off), int64(n)); {
			case err == unix.EOPNOTSUPP && noExtents(fd):
				continue
			case err != nil:
				return fail("allocate: %v", err)
			}
			if keep == 0 {
				grow(off + n)
			}
		case 14:
			if rnd.Intn(4) == 0 {
				must(unix.Fsync(h))
			}
		case 16, 17: // collapse, insert
			off, n = off&^(block-1), (n+block-1)&^(block-1)
			mode, want := uint32(unix.FALLOC_FL_COLLAPSE_RANGE), unix.Errno(0)
			if kind == 17 {
				mode = unix.FALLOC_FL_INSERT_RANGE
			}
			switch {
			case noExtents(fd):
				want = unix.EOPNOTSUPP
			case kind == 16 && off+n >= len(model), kind == 17 && off >= len(model):
				want = unix.EINVAL
			case kind == 17 && len(model)+n > fsxSize:
				continue
			}
			switch err := unix.Fallocate(h, mode, int64(off), int64(n)); {
			case want != 0 && err != want, want == 0 && err != nil:
				return fail("shift: %v, should be %v", err, want)
			case want != 0:
			case kind == 16:
				model = append(model[:off:off], model[off+n:]...)
			default:
				model = append(append(model[:off:off], make([]byte, n)...), model[off:]...)
			}
		case 15: // close and open
			must(unix.Close(other))
			other = open(f, unix.O_RDWR, 0)
		}
		if s := stat(f).Size; s != int64(len(model)) {
			return fail("size is %d, should be %d", s, len(model))
		}
	}
	unix.Close(other)
	unix.Close(fd)
	got, err := os.ReadFile(f)
	must(err)
	if !bytes.Equal(got, model) {
		return fail("at the end: content differs")
	}
	show("fsx", seed, ops, len(model))
	return 0
}

// noExtents says whether a file is mapped without extents: then nothing of it can be
// allocated and not written. A filesystem that is not ext has no flags that would say.
func noExtents(fd int) bool {
	var flags uint32
	err := ioctlInt(fd, getFlags, &flags)
	if err == unix.ENOTTY {
		return false
	}
	must(err)
	return flags&0x80000 == 0
}

// stress runs workers that do random things in one tree.
func stress(d string, seed int64, ops, procs int) int {
	var cmds []*exec.Cmd
	for p := range procs {
		cmd := exec.Command("/proc/self/exe", "worker", d, fmt.Sprint(seed*1000+int64(p)), fmt.Sprint(ops), fmt.Sprint(p))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		must(cmd.Start())
		cmds = append(cmds, cmd)
	}
	status := 0
	for _, c := range cmds {
		if err := c.Wait(); err != nil {
			fmt.Printf("stress: %v\n", err)
			status = 1
		}
	}
	return status
}

// worker is one process of stress. Besides the common tree it has files of its own,
// whose content it knows.
func worker(d string, seed int64, ops, id int) int {
	rnd := rand.New(rand.NewSource(seed))
	own := fmt.Sprintf("%s/own%d", d, id)
	must(os.MkdirAll(own, 0o755))
	content := map[string][]byte{}
	path := func() string {
		p := d + "/common"
		for range 1 + rnd.Intn(3) {
			p += fmt.Sprintf("/%c", 'a'+rnd.Intn(5))
		}
		return p
	}
	os.Mkdir(d+"/common", 0o755)
	var open []int
	for range ops {
		p, q := path(), path()
		switch rnd.Intn(18) {
		case 0, 1:
			os.MkdirAll(p, 0o755)
		case 2:
			os.WriteFile(p, make([]byte, rnd.Intn(100000)), 0o644)
		case 3:
			os.ReadFile(p)
		case 4:
			os.Remove(p)
		case 5:
			if rnd.Intn(10) == 0 {
				os.RemoveAll(p)
			}
		case 6:
			unix.Rename(p, q)
		case 7:
			unix.Renameat2(-100, p, -100, q, unix.RENAME_EXCHANGE)
		case 8:
			unix.Link(p, q)
		case 9:
			os.Symlink(p, q)
		case 10:
			unix.Setxattr(p, "user.x", make([]byte, rnd.Intn(500)), 0)
		case 11:
			if fd, err := unix.Open(p, unix.O_RDWR|unix.O_CREAT, 0o644); err == nil {
				open = append(open, fd)
			}
			if len(open) > 20 {
				unix.Close(open[0])
				open = open[1:]
			}
		case 12:
			if len(open) > 0 {
				fd := open[rnd.Intn(len(open))]
				unix.Pwrite(fd, make([]byte, rnd.Intn(50000)), int64(rnd.Intn(200000)))
				switch rnd.Intn(9) {
				case 0, 1, 2:
					unix.Ftruncate(fd, int64(rnd.Intn(100000)))
				case 3:
					unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, int64(rnd.Intn(20))*4096, 4096)
				case 4:
					unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, int64(rnd.Intn(20))*4096, 4096)
				}
				if m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
					if !touch(m, 0) && rnd.Intn(2) == 0 {
						func() {
							defer func() { recover() }()
							store(m)
						}()
					}
					unix.Munmap(m)
				}
			}
		case 13:
			os.ReadDir(p)
		case 14, 15:
			name := fmt.Sprintf("%s/%d", own, rnd.Intn(20))
			b := make([]byte, rnd.Intn(60000))
			rnd.Read(b)
			if err := os.WriteFile(name, b, 0o644); err != nil {
				fmt.Printf("worker %d: %v\n", id, err)
				return 1
			}
			content[name] = b
		case 16:
			for name, b := range content {
				got, err := os.ReadFile(name)
				if err != nil || !bytes.Equal(got, b) {
					fmt.Printf("worker %d: %s has not its content (%d bytes, should be %d; %v)\n", id, name, len(got), len(b), err)
					return 1
				}
				if rnd.Intn(3) == 0 {
					to := name + "r"
					must(os.Rename(name, to))
					must(os.Rename(to, name))
				}
				break
			}
		case 17:
			if rnd.Intn(20) == 0 {
				unix.Sync()
			}
			if len(open) > 0 && rnd.Intn(5) == 0 {
				unix.Fsync(open[0])
			}
		}
	}
	for name, b := range content {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, b) {
			fmt.Printf("worker %d: at the end %s has not its content: %v\n", id, name, err)
			return 1
		}
	}
	return 0
}

// patch changes a file that is there already in small pieces, a sector and less, and
// looks at it after each through read(2) and through mappings made before.
func patch(path string, seed int64, ops int) int {
	rnd := rand.New(rand.NewSource(seed))
	model, err := os.ReadFile(path)
	must(err)
	fd := open(path, unix.O_RDWR, 0)
	shared, err := unix.Mmap(fd, 0, len(model), unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	private, err := unix.Mmap(fd, 0, len(model), unix.PROT_READ, unix.MAP_PRIVATE)
	must(err)
	if !bytes.Equal(shared, model) || !bytes.Equal(private, model) {
		fmt.Println("a mapping differs from the file before any change")
		return 1
	}
	for op := range ops {
		if op == ops/2 {
			// From now on with a mapping that can be stored to, which is its owner's
			// only one of the file.
			must(unix.Munmap(private))
			private = nil
		}
		off := rnd.Intn(len(model) - 4096)
		n := 1 + rnd.Intn(1000)
		data := make([]byte, n)
		rnd.Read(data)
		if private == nil && rnd.Intn(2) == 0 {
			page := off &^ 4095
			m, err := unix.Mmap(fd, int64(page), off-page+n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(err)
			copy(m[off-page:], data)
			if rnd.Intn(3) == 0 {
				must(unix.Msync(m, unix.MS_SYNC))
			}
			must(unix.Munmap(m))
		} else if _, err := unix.Pwrite(fd, data, int64(off)); err != nil {
			panic(err)
		}
		copy(model[off:], data)
		lo, hi := off&^4095, min((off+n+4095)&^4095, len(model))
		got := make([]byte, hi-lo)
		_, err := unix.Pread(fd, got, int64(lo))
		must(err)
		switch {
		case !bytes.Equal(got, model[lo:hi]):
			fmt.Printf("op %d: read differs around %d\n", op, off)
			return 1
		case !bytes.Equal(shared[lo:hi], model[lo:hi]):
			fmt.Printf("op %d: shared mapping differs around %d\n", op, off)
			return 1
		case private != nil && !bytes.Equal(private[lo:hi], model[lo:hi]):
			fmt.Printf("op %d: private mapping differs around %d\n", op, off)
			return 1
		}
	}
	if !bytes.Equal(shared, model) {
		fmt.Println("the mapping differs from the model at the end")
		return 1
	}
	must(unix.Fsync(fd))
	show("patched", ops)
	return 0
}
