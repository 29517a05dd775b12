package ubdfmt

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The host's FIEMAP request: all extents of a file, many at once. It is asked where a wrong
// answer does no harm: not every host tells of data that it has not placed yet.
const (
	fiemapRequest   = 0xc020660b // FS_IOC_FIEMAP
	fiemapLast      = 0x00000001 // the file's last extent
	fiemapUnwritten = 0x00000800 // allocated, and zeros unless something is in the page cache
	fiemapBatch     = 512
)

type fiemapExtent struct {
	logical, physical, length uint64 // bytes
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemapArg struct {
	start, length uint64
	flags         uint32
	mapped        uint32 // how many extents the host filled in
	count         uint32
	_             uint32
	extents       [fiemapBatch]fiemapExtent
}

// placed visits, in order, where the file has data, as segments tells it, with few questions
// to the host. It returns false, having visited nothing, where the host does not know.
func (h *hostFile) placed(visit func(off, n int64)) (bool, error) {
	arg := new(fiemapArg)
	for start := uint64(0); ; {
		*arg = fiemapArg{start: start, length: ^uint64(0) - start, count: fiemapBatch}
		err := control(h.File, func(fd int) error {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fiemapRequest, uintptr(unsafe.Pointer(arg)))
			if errno != 0 {
				return errno
			}
			return nil
		})
		if err != nil {
			return false, nil // and whoever asks does without
		}
		for _, e := range arg.extents[:min(arg.mapped, fiemapBatch)] {
			if e.logical >= uint64(h.size) {
				return true, nil
			}
			off := int64(e.logical)
			n := int64(min(e.length, uint64(h.size-off)))
			if e.flags&fiemapUnwritten == 0 {
				visit(off, n)
			} else if err := h.segments(off, n, func(off, n int64, hole bool) bool {
				if !hole {
					visit(off, n)
				}
				return true
			}); err != nil {
				return false, err
			}
			if e.flags&fiemapLast != 0 || e.length == 0 || e.logical+e.length <= start {
				return true, nil
			}
			start = e.logical + e.length
		}
		if arg.mapped == 0 {
			return true, nil
		}
	}
}
