package partition

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// A section is the bytes of its partition and none of its neighbours'.
func TestSection(t *testing.T) {
	const size = 16 << 20
	_, dev := blankImage(t, size)
	table, err := New(GPT, size, [16]byte{1}, []Spec{{Size: 2 << 20}, {Size: 3 << 20}, {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dev, table); err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions {
		fill := bytes.Repeat([]byte{byte(p.Number)}, int(p.Size))
		if _, err := dev.WriteAt(fill, p.Start); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dev, 4); err == nil || err.Error() != "no partition 4: there are 1, 2, 3" {
		t.Error(err)
	}
	s, err := Open(dev, 2)
	if err != nil {
		t.Fatal(err)
	}
	before := make([]byte, size)
	if _, err := dev.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	model := bytes.Repeat([]byte{2}, 3<<20)
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 3))
	for range 3000 {
		off := r.Int64N(int64(len(model)) + 8192)
		n := r.IntN(16 << 10)
		inside := off+int64(n) <= int64(len(model))
		switch r.IntN(4) {
		case 0:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			_, err := s.WriteAt(p, off)
			if inside != (err == nil) || !inside && !errors.Is(err, unix.EINVAL) {
				t.Fatalf("write %d at %d: %v", n, off, err)
			}
			if inside {
				copy(model[off:], p)
			}
		case 1:
			err := s.Trim(off, int64(n))
			if inside != (err == nil) {
				t.Fatalf("trim %d at %d: %v", n, off, err)
			}
			if inside {
				clear(model[off : off+int64(n)])
			}
		case 2:
			p := make([]byte, n)
			m, err := s.ReadAt(p, off)
			want := model[min(off, int64(len(model))):]
			want = want[:min(n, len(want))]
			if !bytes.Equal(p[:m], want) || (m < n) != errors.Is(err, io.EOF) {
				t.Fatalf("read %d at %d: %d, %v", n, off, m, err)
			}
		case 3:
			at := off
			err := s.Extents(off, int64(n), func(e ubdfmt.Extent) bool {
				if e.Offset != at || e.Length <= 0 {
					t.Fatalf("extent %+v at %d", e, at)
				}
				if e.File != nil {
					p := make([]byte, e.Length)
					if _, err := e.File.ReadAt(p, e.FileOffset); err != nil || !bytes.Equal(p, model[at:at+e.Length]) {
						t.Fatalf("extent %+v holds something else, %v", e, err)
					}
				} else if bytes.Trim(model[at:at+e.Length], "\x00") != nil && len(bytes.Trim(model[at:at+e.Length], "\x00")) > 0 {
					t.Fatalf("extent %+v is no hole", e)
				}
				at += e.Length
				return true
			})
			if inside != (err == nil) || inside && at != off+int64(n) {
				t.Fatalf("extents %d at %d: to %d, %v", n, off, at, err)
			}
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	after := make([]byte, size)
	if _, err := dev.ReadAt(after, 0); err != nil {
		t.Fatal(err)
	}
	copy(before[table.Partitions[1].Start:], model)
	if !bytes.Equal(before, after) {
		t.Error("a write reached a neighbour")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.ReadAt(after[:512], 0); err == nil {
		t.Error("closing the section left the disk open")
	}
}
