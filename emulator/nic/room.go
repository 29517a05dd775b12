package nic

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/umlkit/umlkit/emulator/netdev"
)

// headers is what stands before a packet in a frame, at most: Ethernet and a VLAN tag.
const headers = 18

// Room for a frame is taken apart, so that a short one, which is most of them, keeps a small
// buffer for as long as its bytes wait to be read. All together hold the longest frame.
const (
	shortFrame  = 2 << 10
	middleFrame = 16 << 10
	restFrame   = 64<<10 - middleFrame
)

var pieceSizes = [3]int{shortFrame, middleFrame, restFrame}

// room is where a batch of frames is received: for each the views of its pieces. A piece
// that a frame used becomes the packet's, and is made anew.
type room struct {
	views  [][3]*buffer.View
	pieces [][3][]byte
	batch  []netdev.Frame
}

var rooms = sync.Pool{New: func() any { return new(room) }}

// takeRoom takes room for size frames.
func takeRoom(size int) *room {
	r := rooms.Get().(*room)
	for len(r.batch) < size {
		r.batch = append(r.batch, netdev.Frame{})
		r.views = append(r.views, [3]*buffer.View{})
		r.pieces = append(r.pieces, [3][]byte{})
	}
	return r
}

// give gives it back.
func (r *room) give() { rooms.Put(r) }

// frames readies size frames.
func (r *room) frames(size int, long bool) []netdev.Frame {
	count := 1
	if long {
		count = 3
	}
	for i := range size {
		for j := range count {
			if r.views[i][j] == nil {
				r.views[i][j] = buffer.NewViewSize(pieceSizes[j])
				r.pieces[i][j] = r.views[i][j].AsSlice()
			}
		}
		r.batch[i].Pieces = r.pieces[i][:count]
	}
	return r.batch[:size]
}

// packet is the bytes of frame i. Devices exchange frames while they read, so that its
// views are found by its pieces.
func (r *room) packet(i int) buffer.Buffer {
	at := r.owner(i)
	var b buffer.Buffer
	left := r.batch[i].Size
	for j := 0; left > 0; j++ {
		v := r.views[at][j]
		r.views[at][j], r.pieces[at][j] = nil, nil
		n := min(left, v.Size())
		v.CapLength(n)
		_ = b.Append(v)
		left -= n
	}
	return b
}

// owner is whose pieces frame i has.
func (r *room) owner(i int) int {
	if &r.batch[i].Pieces[0] == &r.pieces[i][0] {
		return i
	}
	for k := range r.pieces {
		if &r.batch[i].Pieces[0] == &r.pieces[k][0] {
			return k
		}
	}
	panic("nic: a device returned a frame with other pieces than it was given")
}
