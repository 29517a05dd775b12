package platform

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"
)

// stub and enter are in stub_amd64.s.
//
//lint:ignore U1000 its declaration, for go vet; it is read, not called
func stub()
func enter(copy, code, shared, offset uintptr)
func stubAddress() uintptr

// code is the stub's code page as stub processes see it.
type code struct {
	page []byte
	// Addresses in stub processes: the signal handler, and what lies behind the system
	// calls that notify.
	handler, notified, parked, asked, mapped uint64
	// leave ends a thread, by the one system call that its filter allows, behind which left
	// lies.
	leave, left uint64
}

// patch is a constant in the code that is known only when it is copied.
type patch struct {
	marker uint64
	size   int
	value  uint64
}

// newCode copies the stub into page. frameOffset is how far below a slot's end the
// kernel puts a signal frame.
func newCode(page []byte, frameOffset uint64) (*code, error) {
	source := unsafe.Slice((*byte)(pointer(stubAddress())), pageSize)
	var places [11]uint64
	at := 0
	for i := range places {
		to, size, err := jump(source[at:])
		if err != nil {
			return nil, fmt.Errorf("table of the stub, entry %d: %w", i, err)
		}
		at += size
		if to += at; to < 0 || to >= pageSize {
			return nil, fmt.Errorf("table of the stub, entry %d: %#x lies outside the page", i, to)
		}
		places[i] = codeAddress + uint64(to)
	}
	end := int(places[10] - codeAddress)
	copy(page, source[:end+1])
	for _, p := range []patch{
		{0x1111111111111111, 8, places[1]},
		{0x2222222222222222, 8, places[2]},
		{0x3333333333333333, 8, places[10]},
		{0x5555555555555555, 8, places[3]},
		{0x44444444, 4, frameOffset},
	} {
		marker := binary.LittleEndian.AppendUint64(nil, p.marker)[:p.size]
		if n := bytes.Count(page[:end], marker); n != 1 {
			return nil, fmt.Errorf("the stub has %d constants %#x instead of one", n, p.marker)
		}
		copy(page[bytes.Index(page, marker):], binary.LittleEndian.AppendUint64(nil, p.value)[:p.size])
	}
	return &code{page: page, handler: places[2], notified: places[4], parked: places[5],
		asked: places[6], mapped: places[7], leave: places[8], left: places[9]}, nil
}

// jump decodes an unconditional jump: how far behind it it goes, and its size.
func jump(b []byte) (distance, size int, err error) {
	switch b[0] {
	case 0xeb:
		return int(int8(b[1])), 2, nil
	case 0xe9:
		return int(int32(binary.LittleEndian.Uint32(b[1:]))), 5, nil
	}
	return 0, 0, fmt.Errorf("%#x is not a jump", b[0])
}

// pointer is an address that the garbage collector knows nothing of.
func pointer(address uintptr) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&address))
}
