package nbd

import (
	"encoding/binary"

	"github.com/umlkit/umlkit/ubdfmt"
)

// maxExtents is how many extents one reply tells of, as many as a small buffer has room
// for. A client asks again for the rest.
const maxExtents = smallSize / 8

// blockStatus answers NBD_CMD_BLOCK_STATUS for base:allocation. What no file has, or has
// as a hole, is a hole and zeros; all else is data. That a COW file needs room for a write
// where the backing file shows through has no word in the protocol: a hole that is not
// zeros would be one that nobody reads.
func (c *conn) blockStatus(r request) {
	most := maxExtents
	if r.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	buf := c.mem.get(smallSize)
	out := buf.b[:0]
	var length int64
	var state uint32
	count := 0
	flush := func() {
		out = binary.BigEndian.AppendUint32(out, uint32(length))
		out = binary.BigEndian.AppendUint32(out, state)
		count++
	}
	err := c.dev.Extents(int64(r.offset), int64(r.length), func(e ubdfmt.Extent) bool {
		now := uint32(0)
		if e.File == nil {
			now = stateHole | stateZero
		}
		switch {
		case length == 0:
			state = now
		case state != now:
			flush()
			if length, state = 0, now; count == most {
				return false
			}
		}
		length += e.Length
		return true
	})
	if err == nil && length > 0 {
		flush()
	}
	if err != nil {
		c.mem.put(buf)
		c.refuse(r, c.fault(r, "block status", err))
		return
	}
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], allocationID)
	whole := chunk(r.cookie, replyBlockStatus, true, id[:], len(out))
	whole.body, whole.buf = out, buf
	c.out.send(whole)
}
