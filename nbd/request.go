package nbd

import (
	"encoding/binary"
	"fmt"
)

// requestLength is how long a request is without its payload, in bytes.
const requestLength = 28

// request is what a client asks for (section "Request message").
type request struct {
	flags  uint16
	kind   uint16
	cookie uint64 // the client's, which replies bring back
	offset uint64 // bytes
	length uint32 // bytes
}

// decodeRequest reads a request of requestLength bytes.
func decodeRequest(b []byte) (request, error) {
	if magic := binary.BigEndian.Uint32(b); magic != requestMagic {
		return request{}, fmt.Errorf("request: magic %#08x, not %#08x", magic, requestMagic)
	}
	return request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		kind:   binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// terms are what a client's requests are held against: the export, and what the client
// has negotiated.
type terms struct {
	size       int64 // bytes
	readOnly   bool
	structured bool // replies to reads are
	allocation bool // base:allocation was selected
}

// check is the error that a request is refused with before anything is done, 0 for one
// that makes sense. Its range is within the disk then, and not empty where the request
// has one.
func (t terms) check(r request) errno {
	allowed := uint16(cmdFlagFUA) // on any request, as "Command flags" has it
	changes := false
	switch r.kind {
	case cmdRead:
		if t.structured {
			allowed |= cmdFlagDF
		}
	case cmdWrite, cmdTrim:
		changes = true
	case cmdWriteZeroes:
		changes = true
		allowed |= cmdFlagNoHole
	case cmdBlockStatus:
		if !t.allocation {
			return einval
		}
		allowed |= cmdFlagReqOne
	case cmdCache:
	case cmdFlush:
		if r.flags&^allowed != 0 || r.offset != 0 || r.length != 0 {
			return einval
		}
		return 0
	default:
		return einval
	}
	switch size := uint64(t.size); {
	case r.flags&^allowed != 0:
		return einval
	case changes && t.readOnly:
		return eperm
	case r.offset > size || uint64(r.length) > size-r.offset:
		if r.kind == cmdWrite || r.kind == cmdWriteZeroes {
			return enospc
		}
		return einval
	case r.length == 0:
		return einval
	case r.kind == cmdRead && r.length > maxPayload:
		if t.structured {
			return eoverflow
		}
		return einval
	case r.kind == cmdRead && r.flags&cmdFlagDF != 0 && r.length > pieceSize:
		return eoverflow // it would be more than one chunk
	}
	return 0
}
