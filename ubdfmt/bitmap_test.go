package ubdfmt

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestBitmapModel holds the bitmap against a slice of bools, across chunk borders.
func TestBitmapModel(t *testing.T) {
	const sectors = 2*chunkSectors + 1003
	h := sample
	h.Size = sectors * SectorSize
	b := newBitmap(h.Layout())
	model := make([]bool, sectors)
	rng := rand.New(rand.NewPCG(1, 2))
	last := int64(0)
	for range 300 {
		first := rng.Int64N(sectors)
		end := min(sectors, first+1+rng.Int64N([]int64{1, 5, 64, 200, 40000}[rng.IntN(5)]))
		b.set(first, end)
		for i := first; i < end; i++ {
			model[i] = true
		}
		last = max(last, end)
		if rng.IntN(20) != 0 {
			continue
		}
		checkRuns(t, b, model, 0, sectors)
		if b.end() != last {
			t.Fatalf("the last sector held ends at %d, want %d", b.end(), last)
		}
	}

	// Through the file's form and back, with bits past the end that must not count.
	file := make([]byte, b.length)
	var p [chunkBytes]byte
	for _, i := range b.takeDirty() {
		b.encode(i, &p)
		off, n := b.span(i)
		copy(file[off:], p[:n])
	}
	file[len(file)-1] |= 0x80
	file = append(file, bytes.Repeat([]byte{0xff}, 3*chunkBytes)...)
	back := newBitmap(h.Layout())
	for off := 0; off < len(file); off += 2 * chunkBytes {
		back.load(file[off:min(len(file), off+2*chunkBytes)], int64(off))
	}
	checkRuns(t, back, model, 0, sectors)
	for i := range back.chunks {
		var want, got [chunkBytes]byte
		b.encode(i, &want)
		back.encode(i, &got)
		if got != want {
			t.Errorf("chunk %d is another when it is read back", i)
		}
	}
	if len(b.takeDirty()) != 0 {
		t.Error("a chunk is dirty that was taken")
	}
}

func checkRuns(t *testing.T, b *bitmap, model []bool, first, end int64) {
	t.Helper()
	for at := first; at < end; {
		held, next := b.run(at, end)
		if next <= at || next > end {
			t.Fatalf("the run at %d ends at %d", at, next)
		}
		for i := at; i < next; i++ {
			if model[i] != held {
				t.Fatalf("sector %d of the run [%d, %d) held %v, want %v", i, at, next, held, model[i])
			}
		}
		if next < end && model[next] == held {
			t.Fatalf("the run [%d, %d) ends too early", at, next)
		}
		at = next
	}
}

// TestBitmapDirtyConcurrent: a bit set while dirty chunks are taken is in this take or
// in a later one.
func TestBitmapDirtyConcurrent(t *testing.T) {
	h := sample
	h.Size = 64 << 20
	b := newBitmap(h.Layout())
	file := make([]byte, b.length)
	take := func() {
		var p [chunkBytes]byte
		for _, i := range b.takeDirty() {
			b.encode(i, &p)
			off, n := b.span(i)
			copy(file[off:], p[:n])
		}
	}
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		writers.Go(func() {
			for s := int64(w); s < b.sectors; s += 4 {
				b.set(s, s+1)
			}
		})
	}
	go func() { writers.Wait(); close(stop) }()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		take()
	}
	for i, v := range file {
		if v != 0xff {
			t.Fatalf("byte %d of the bitmap is %#x", i, v)
		}
	}
}
