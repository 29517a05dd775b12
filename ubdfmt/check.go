package ubdfmt

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
)

// ProblemKind sorts what Check finds by what it means for the disk.
type ProblemKind int

const (
	// Corrupt: the COW file does not hold what it says it does.
	Corrupt ProblemKind = iota
	// Unmatched: the backing file is not there, or not the one that the COW file was
	// made for. The COW file itself may be well.
	Unmatched
	// Leak: the COW file takes space of the host for what no disk shows.
	Leak
)

// Problem is one thing that Check found.
type Problem struct {
	Kind ProblemKind
	// Err says what: *HeaderError, *MismatchError, or an error of one line that names
	// the file.
	Err error
	// Bytes is how much of the disk or of the file is concerned, 0 if it cannot be told.
	Bytes int64
	// Repairable tells whether Repair makes it good without losing anything.
	Repairable bool
}

// Report is what Check found out about a COW file. Its fields are in bytes.
type Report struct {
	// Header and Layout are zero when the header made no sense.
	Header Header
	Layout Layout
	// FileSize is the length of the COW file, Allocated what it takes of the host.
	FileSize, Allocated int64
	// Held is what of the disk the COW file holds.
	Held int64
	// Partial is how many blocks of 4096 bytes are held in part. Kernels, 7.2 among
	// them, misread what follows such a block in a request; ours make none.
	Partial int64
	// Problems is empty when all is well.
	Problems []Problem
}

// CheckOptions say how a COW file is checked.
type CheckOptions struct {
	// Shared checks a file that a machine has open, too. What is found may then be
	// what the machine is just about to do. Repair does not know it.
	Shared bool
	// Backing is taken in place of the path in the header.
	Backing string
}

// Check looks at a COW file without changing it: whether its header makes sense, whether
// the file is as long as bitmap and data want it, whether its backing file is there and
// matches, and what it takes of the host for nothing. What the sectors hold it does not
// look at.
//
// Its error says that it could not look: the host's, *LockedError, *DialectError, or a
// *HeaderError for the field magic or version, of a file that is no COW file that we know.
// What is wrong with the file is in the report.
func Check(path string, o CheckOptions) (Report, error) {
	f, err := openHost(path, Options{ReadOnly: true, Shared: o.Shared}, true)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	r, _, _, err := f.check(o)
	return r, err
}

// CheckDisk is Check, and opens the disk for reading when nothing keeps it from making
// sense; else it is nil.
func CheckDisk(path string, o CheckOptions) (Report, *COW, error) {
	f, err := openHost(path, Options{ReadOnly: true, Shared: o.Shared}, true)
	if err != nil {
		return Report{}, nil, err
	}
	r, _, bits, err := f.check(o)
	if err != nil || slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Kind != Leak }) {
		f.Close()
		return r, nil, err
	}
	b, _, err := Policy{Backing: o.Backing}.openBacking(f, r.Header, Options{Shared: o.Shared})
	if err != nil {
		f.Close()
		return r, nil, err
	}
	return r, disk(f, b, r.Header, bits, Options{ReadOnly: true}), nil
}

// Repair makes good what Check found and what can be made good without losing anything: it
// gives back leaked space, clears bits past the disk's end, and brings the file to the
// length that it should have. It returns what Check finds then. The backing file is not
// changed, nor is the header: see Rebase. Killed at any point and done again, the end is
// the same. The errors are Check's.
func Repair(path string, o CheckOptions) (Report, error) {
	f, err := openHost(path, Options{}, true)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	r, leaks, _, err := f.check(o)
	if err != nil || r.Header.Size == 0 {
		return r, err
	}
	if err := f.repair(r, leaks); err != nil {
		return r, err
	}
	if err := f.inspect(); err != nil {
		return r, err
	}
	r, _, _, err = f.check(o)
	return r, err
}

// span is a run of a file, in bytes.
type span struct{ off, n int64 }

// check returns where the leaks are, too, and the bitmap if it makes sense.
func (h *hostFile) check(o CheckOptions) (r Report, leaks []span, bits *bitmap, err error) {
	r.FileSize, r.Allocated = h.size, allocated(h.info)
	r.Header, err = h.readHeader()
	if err != nil {
		var e *HeaderError
		if !errors.As(err, &e) || e.Field == "magic" || e.Field == "version" {
			return r, nil, nil, err
		}
		r.add(Corrupt, err, 0, false)
		return r, nil, nil, nil
	}
	r.Layout = r.Header.Layout()
	// Where the host has data it tells meanwhile.
	var p placement
	var asked sync.WaitGroup
	asked.Go(func() {
		p.known, p.err = h.placed(func(off, n int64) { p.data = append(p.data, span{off, n}) })
	})
	bits, err = h.readBitmap(r.Header, r.Layout)
	if err == nil {
		err = bits.readAll()
	}
	asked.Wait()
	if err == nil {
		if leaks, err = h.checkBits(&r, bits, p); err != nil {
			return r, nil, nil, err
		}
	} else {
		var e *HeaderError
		if !errors.As(err, &e) {
			return r, nil, nil, err
		}
		r.add(Corrupt, err, 0, false)
	}
	r.checkBacking(h, o)
	return r, leaks, bits, nil
}

func (r *Report) add(kind ProblemKind, err error, bytes int64, repairable bool) {
	r.Problems = append(r.Problems, Problem{kind, err, bytes, repairable})
}

// placement is what placed tells.
type placement struct {
	data  []span
	known bool
	err   error
}

// checkBits checks the file against its bitmap, which was read without an error.
func (h *hostFile) checkBits(r *Report, bits *bitmap, p placement) (leaks []span, err error) {
	l := r.Layout
	end := l.DataOffset + r.Header.Size
	regular := h.info.Mode().IsRegular()
	if h.size < end {
		// Nothing is held there, but it is no file that anybody wrote so.
		r.add(Corrupt, fmt.Errorf("%s: the file has %d bytes where bitmap and disk take %d", h.path, h.size, end), end-h.size, regular)
	}
	stray, _, err := h.lastBits(l)
	if err != nil {
		return nil, err
	}
	if stray != 0 {
		r.add(Corrupt, fmt.Errorf("%s: the bitmap has bits for sectors past the disk's last, %d", h.path, l.Sectors-1), 0, true)
	}
	whole := l.DataOffset + l.Sectors*SectorSize
	if regular && h.size > whole {
		r.add(Leak, fmt.Errorf("%s: %d bytes follow the disk's end", h.path, h.size-whole), h.size-whole, true)
	}
	const perBlock = blockSize / SectorSize
	leaked, partial := int64(0), int64(-1) // partial is the last block counted
	leak := func(off, n int64) {
		leaks = append(leaks, span{off, n})
		leaked += n
	}
	if p.err != nil {
		return nil, p.err
	}
	for _, s := range p.data {
		if err := h.unheld(l, bits, s.off, s.n, leak); err != nil {
			return nil, err
		}
	}
	for sector := int64(0); sector < l.Sectors; {
		held, next, err := bits.run(sector, l.Sectors)
		if err != nil {
			return nil, err
		}
		if held {
			r.Held += (next - sector) * SectorSize
			for _, edge := range [2]int64{sector, next} {
				if block := edge / perBlock; edge%perBlock != 0 && edge != l.Sectors && block != partial {
					r.Partial, partial = r.Partial+1, block
				}
			}
		} else if !p.known {
			if err := h.leaks(l.DataOffset+sector*SectorSize, l.DataOffset+next*SectorSize, leak); err != nil {
				return nil, err
			}
		}
		sector = next
	}
	if leaked > 0 {
		r.add(Leak, fmt.Errorf("%s: %d bytes are taken in the places of sectors that it does not hold", h.path, leaked), leaked, true)
	}
	return leaks, nil
}

// unheld visits what of a range of the file, which has data, lies in the places of sectors
// that are not held.
func (h *hostFile) unheld(l Layout, bits *bitmap, off, n int64, visit func(off, n int64)) error {
	first, end := max(0, off-l.DataOffset)/SectorSize, min(l.Sectors, ceilDiv(off+n-l.DataOffset, SectorSize))
	for first < end {
		held, next, err := bits.run(first, end)
		if err != nil {
			return err
		}
		if !held {
			// A run of the bitmap can begin before the data does, and end after it.
			a, b := h.wholeBlocks(max(off, l.DataOffset+first*SectorSize), min(off+n, l.DataOffset+next*SectorSize))
			if a < b {
				visit(a, b-a)
			}
		}
		first = next
	}
	return nil
}

// wholeBlocks is the part of a range that takes whole blocks of the host: what an allocated
// block has around a held sector is no leak, nor is the byte that ends the file.
func (h *hostFile) wholeBlocks(first, end int64) (int64, int64) {
	return roundUp(first, blockSize), min(end, h.size-1) / blockSize * blockSize
}

// leaks visits what is allocated of a range of the file that holds nothing.
func (h *hostFile) leaks(first, end int64, visit func(off, n int64)) error {
	first, end = h.wholeBlocks(first, end)
	if first >= end {
		return nil
	}
	return h.segments(first, end-first, func(off, n int64, hole bool) bool {
		if !hole {
			visit(off, n)
		}
		return true
	})
}

// lastBits returns the bits past the last sector in the last byte of the bitmap, and that
// byte.
func (h *hostFile) lastBits(l Layout) (stray, last byte, err error) {
	if l.BitmapLength == 0 || l.BitmapLength*8 <= l.Sectors {
		return 0, 0, nil
	}
	var b [1]byte
	if err := h.readFull(b[:], l.BitmapOffset+l.BitmapLength-1, h.size); err != nil {
		return 0, 0, err
	}
	return b[0] &^ (1<<(l.Sectors%8) - 1), b[0], nil
}

// checkBacking checks what stands below.
func (r *Report) checkBacking(h *hostFile, o CheckOptions) {
	p := Policy{Backing: o.Backing}
	b, _, err := p.openBacking(h, r.Header, Options{Shared: o.Shared})
	if err != nil {
		r.add(Unmatched, err, 0, false)
		return
	}
	defer b.Close()
	if isCOW, err := b.isCOW(); err != nil {
		r.add(Unmatched, err, 0, false)
	} else if isCOW {
		r.add(Unmatched, fmt.Errorf("backing file of %s: %s is a COW file itself", h.path, b.path), 0, false)
	}
}

// repair does what can be done. Each step leaves a file that shows the same disk.
func (h *hostFile) repair(r Report, leaks []span) error {
	l := r.Layout
	for _, p := range r.Problems {
		if p.Kind == Corrupt && !p.Repairable {
			return nil // who knows what else is not what it seems
		}
	}
	stray, last, err := h.lastBits(l)
	if err != nil {
		return err
	}
	if stray != 0 {
		if _, err := h.WriteAt([]byte{last &^ stray}, l.BitmapOffset+l.BitmapLength-1); err != nil {
			return err
		}
	}
	for _, s := range leaks {
		if err := h.zero(s.off, s.n); err != nil {
			return err
		}
	}
	if h.info.Mode().IsRegular() {
		least, most := l.DataOffset+r.Header.Size, l.DataOffset+l.Sectors*SectorSize
		if size := min(max(h.size, least), most); size != h.size {
			if err := h.setLength(size); err != nil {
				return err
			}
		}
	}
	return h.datasync()
}

// allocated is what a file takes of the host, as du counts it.
func allocated(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return 0
}
