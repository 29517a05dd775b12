package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

func TestRefusals(t *testing.T) {
	const size = 1 << 20
	writable := serve(t, &Server{Export: Export{Device: image(t, size)}})
	readOnly := serve(t, &Server{Export: Export{Device: image(t, size), ReadOnly: true}})
	for _, structured := range []bool{false, true} {
		rw, ro := writable.start(structured), readOnly.start(structured)
		block := make([]byte, 512)
		tooLong := einval
		if structured {
			tooLong = eoverflow
		}
		for _, test := range []struct {
			what        string
			c           *client
			flags, kind uint16
			off         uint64
			n           uint32
			payload     []byte
			want        errno
		}{
			{"a command without a meaning", rw, 0, 99, 0, 512, nil, einval},
			{"a read past the end", rw, 0, cmdRead, size - 511, 512, nil, einval},
			{"a read behind the end", rw, 0, cmdRead, size, 1, nil, einval},
			{"a read far behind the end", rw, 0, cmdRead, 1<<64 - 512, 512, nil, einval},
			{"a read of nothing", rw, 0, cmdRead, 0, 0, nil, einval},
			{"a read with a flag of others", rw, cmdFlagReqOne, cmdRead, 0, 512, nil, einval},
			{"a write past the end", rw, 0, cmdWrite, size - 511, 512, block, enospc},
			{"a write of nothing", rw, 0, cmdWrite, 0, 0, nil, einval},
			{"a write with a flag of others", rw, cmdFlagNoHole, cmdWrite, 0, 512, block, einval},
			{"a write of what is read-only", ro, 0, cmdWrite, 0, 512, block, eperm},
			{"a trim past the end", rw, 0, cmdTrim, size - 511, 512, nil, einval},
			{"a trim of what is read-only", ro, 0, cmdTrim, 0, 512, nil, eperm},
			{"a trim with a flag of others", rw, cmdFlagNoHole, cmdTrim, 0, 512, nil, einval},
			{"zeroes past the end", rw, 0, cmdWriteZeroes, 0, 1<<32 - 1, nil, enospc},
			{"zeroes of what is read-only", ro, cmdFlagNoHole, cmdWriteZeroes, 0, 512, nil, eperm},
			{"fast zeroes", rw, 1 << 4, cmdWriteZeroes, 0, 512, nil, einval},
			{"a flush with an offset", rw, 0, cmdFlush, 512, 0, nil, einval},
			{"a flush with a length", rw, 0, cmdFlush, 0, 512, nil, einval},
			{"a flush with a flag of others", rw, cmdFlagDF, cmdFlush, 0, 0, nil, einval},
			{"a cache past the end", rw, 0, cmdCache, size, 512, nil, einval},
			{"a cache with a flag", rw, cmdFlagNoHole, cmdCache, 0, 512, nil, einval},
			{"a status past the end", rw, 0, cmdBlockStatus, size - 1, 2, nil, einval},
			{"a status of nothing", rw, 0, cmdBlockStatus, 0, 0, nil, einval},
			{"a flush", rw, cmdFlagFUA, cmdFlush, 0, 0, nil, 0},
			{"a flush of what is read-only", ro, 0, cmdFlush, 0, 0, nil, 0},
			{"a cache", ro, 0, cmdCache, 0, size, nil, 0},
			{"a write to the end", rw, 0, cmdWrite, size - 512, 512, block, 0},
			{"a trim of all", rw, cmdFlagFUA, cmdTrim, 0, size, nil, 0},
		} {
			if got := test.c.do(test.flags, test.kind, test.off, test.n, test.payload); got != test.want {
				t.Errorf("structured %v: %s: error %d, want %d", structured, test.what, got, test.want)
			}
		}
		if !structured {
			if _, _, e := rw.read(cmdFlagDF, 0, 512); e != einval {
				t.Errorf("a read with DF: error %d", e)
			}
			if e := rw.do(0, cmdBlockStatus, 0, 512); e != einval {
				t.Errorf("a status that was not negotiated: error %d", e)
			}
		}
		big := serve(t, &Server{Export: Export{Device: image(t, 64<<20)}}).start(structured)
		if _, _, e := big.read(0, 0, maxPayload+1); e != tooLong {
			t.Errorf("structured %v: a long read: error %d, want %d", structured, e, tooLong)
		}
		if data, _, e := big.read(cmdFlagFUA, 1<<20, maxPayload); e != 0 || len(data) != maxPayload {
			t.Errorf("structured %v: the longest read: error %d", structured, e)
		}
		if e := big.do(0, cmdWrite, 1<<20, maxPayload, make([]byte, maxPayload)); e != 0 {
			t.Errorf("structured %v: the longest write: error %d", structured, e)
		}
		big.send(0, cmdWrite, 0, maxPayload+1)
		big.hungUp("a write that is too long")
		ro.put("anything that is no request")
		ro.put(make([]byte, 28))
		ro.hungUp("another magic")
	}
}

// Holes come as holes where they are worth it, and never in one chunk with DF.
func TestHoles(t *testing.T) {
	const size = 8 << 20
	s := serve(t, &Server{Export: Export{Device: image(t, size)}})
	c := s.start(true)
	want := make([]byte, size)
	fill := func(off, n int) {
		copy(want[off:], bytes.Repeat([]byte{7}, n))
		if e := c.do(0, cmdWrite, uint64(off), uint32(n), want[off:off+n]); e != 0 {
			t.Fatal(e)
		}
	}
	fill(1<<20, 1<<20)
	for off := 4 << 20; off < 5<<20; off += 8192 {
		fill(off, 4096)
	}
	if e := c.do(0, cmdFlush, 0, 0); e != 0 {
		t.Fatal(e)
	}
	for _, test := range []struct{ off, n, holes int }{
		{0, size, 6<<20 + 4096}, {0, 1 << 20, 1 << 20}, {1 << 20, 1 << 20, 0}, {100, 1<<20 + 100, 1<<20 - 100}, {2 << 20, 1, 0},
		{4 << 20, 1 << 20, 0}, {2<<20 - 1, holeWorth + 1, holeWorth}, {2 << 20, holeWorth - 1, 0},
	} {
		data, holes, e := c.read(0, uint64(test.off), test.n)
		if e != 0 || !bytes.Equal(data, want[test.off:test.off+test.n]) || holes != test.holes {
			t.Errorf("%d bytes at %d: error %d, %d bytes of holes, want %d", test.n, test.off, e, holes, test.holes)
		}
		if test.n > pieceSize {
			if _, _, e := c.read(cmdFlagDF, uint64(test.off), test.n); e != eoverflow {
				t.Errorf("%d bytes at %d in one chunk: error %d", test.n, test.off, e)
			}
			test.n = pieceSize
		}
		data, holes, e = c.read(cmdFlagDF, uint64(test.off), test.n)
		if e != 0 || !bytes.Equal(data, want[test.off:test.off+test.n]) || holes != 0 {
			t.Errorf("%d bytes at %d in one chunk: error %d, %d bytes of holes", test.n, test.off, e, holes)
		}
	}

	const hole = stateHole | stateZero
	for _, test := range []struct {
		flags  uint16
		off, n int
		want   []extent
	}{
		{0, 0, 4 << 20, []extent{{1 << 20, hole}, {1 << 20, 0}, {2 << 20, hole}}},
		{cmdFlagReqOne, 0, 4 << 20, []extent{{1 << 20, hole}}},
		{cmdFlagReqOne, 100, 100, []extent{{100, hole}}},
		{cmdFlagReqOne | cmdFlagFUA, 1<<20 + 1, 4 << 20, []extent{{1<<20 - 1, 0}}},
		{0, 1<<20 - 1, 2, []extent{{1, hole}, {1, 0}}},
		{0, 5 << 20, 3 << 20, []extent{{3 << 20, hole}}},
	} {
		if got, e := c.status(test.flags, uint64(test.off), uint32(test.n)); e != 0 || !slices.Equal(got, test.want) {
			t.Errorf("status of %d bytes at %d: %v, error %d, want %v", test.n, test.off, got, e, test.want)
		}
	}

	// Zeroes without a hole take their room, a trim gives it back.
	for _, step := range []struct {
		flags, kind uint16
		want        uint32
	}{{cmdFlagNoHole, cmdWriteZeroes, 0}, {0, cmdWriteZeroes, hole}, {cmdFlagNoHole | cmdFlagFUA, cmdWriteZeroes, 0}, {0, cmdTrim, hole}} {
		if e := c.do(step.flags, step.kind, 1<<20, 1<<20); e != 0 {
			t.Fatal(e)
		}
		if e := c.do(0, cmdFlush, 0, 0); e != 0 {
			t.Fatal(e)
		}
		if got, e := c.status(0, 1<<20, 1<<20); e != 0 || !slices.Equal(got, []extent{{1 << 20, step.want}}) {
			t.Errorf("%+v leaves %v, error %d", step, got, e)
		}
		if data, _, e := c.read(0, 1<<20, 1<<20); e != 0 || !bytes.Equal(data, make([]byte, 1<<20)) {
			t.Errorf("%+v does not leave zeros, error %d", step, e)
		}
	}
}

// A disk in more extents than one reply tells of is told of in several.
func TestManyExtents(t *testing.T) {
	dev := &fake{size: 1 << 30}
	c := serve(t, &Server{Export: Export{Device: dev}}).start(true)
	all := 0
	for off := uint64(0); off < 1<<30; {
		got, e := c.status(0, off, uint32(1<<30-off))
		if e != 0 || len(got) == 0 || len(got) > maxExtents {
			t.Fatalf("%d extents, error %d", len(got), e)
		}
		for _, x := range got {
			if x.length != 4096 || x.state != uint32(off/4096%2)*(stateHole|stateZero) {
				t.Fatalf("at %d: %+v", off, x)
			}
			off += uint64(x.length)
			all++
		}
	}
	if all != 1<<18 {
		t.Errorf("%d extents", all)
	}
}

// fake is a disk of zeros in extents of 4 KiB, every other a hole, that notes what is done
// and fails when it is told to.
type fake struct {
	size int64

	mu    sync.Mutex
	calls []string
	read  func(off int64) error
	err   error // of all else
}

func (f *fake) call(format string, a ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, a...))
	return f.err
}

func (f *fake) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fake) Size() int64 { return f.size }

// fail has everything fail from now on, reads by themselves.
func (f *fake) fail(err error, read func(off int64) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.read = err, read
}

func (f *fake) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	read := f.read
	f.mu.Unlock()
	if read != nil {
		if err := read(off); err != nil {
			return 0, err
		}
	}
	clear(p)
	if off+int64(len(p)) == f.size {
		return len(p), io.EOF // as a ReaderAt may
	}
	return len(p), nil
}

func (f *fake) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.call("write %d at %d", len(p), off)
}

func (f *fake) Trim(off, n int64) error { return f.call("trim %d at %d", n, off) }

func (f *fake) Sync() error { return f.call("sync") }

func (f *fake) Extents(off, n int64, visit func(ubdfmt.Extent) bool) error {
	for end := off + n; off < end; {
		e := ubdfmt.Extent{Offset: off, Length: min(end, (off/4096+1)*4096) - off}
		if off/4096%2 == 0 {
			e.File = os.Stdin
		}
		if !visit(e) {
			return nil
		}
		off += e.Length
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fake) Close() error { return nil }

// fakeStable is one that can make a write stable alone.
type fakeStable struct{ *fake }

func (f fakeStable) WriteStable(p []byte, off int64) (int, error) {
	return len(p), f.call("write %d at %d, stable", len(p), off)
}

// What was done with FUA, or before a flush, is stable before the client hears of it.
func TestStable(t *testing.T) {
	dev := &fake{size: 1 << 20}
	c := serve(t, &Server{Export: Export{Device: dev}}).start(true)
	for _, test := range []struct {
		flags, kind uint16
		off         uint64
		n           uint32
		want        []string
	}{
		{0, cmdWrite, 512, 512, []string{"write 512 at 512"}},
		{0, cmdFlush, 0, 0, []string{"sync"}},
		{cmdFlagFUA, cmdWrite, 512, 512, []string{"write 512 at 512", "sync"}},
		{cmdFlagFUA, cmdWrite, pieceSize - 512, 1024, []string{"write 512 at 261632", "write 512 at 262144", "sync"}},
		{0, cmdTrim, 0, 4096, []string{"trim 4096 at 0"}},
		{cmdFlagFUA, cmdTrim, 0, 4096, []string{"trim 4096 at 0", "sync"}},
		{cmdFlagFUA, cmdWriteZeroes, 0, 4096, []string{"trim 4096 at 0", "sync"}},
		{cmdFlagFUA | cmdFlagNoHole, cmdWriteZeroes, 1, pieceSize, []string{"write 262143 at 1", "write 1 at 262144", "sync"}},
	} {
		var payload []byte
		if test.kind == cmdWrite {
			payload = make([]byte, test.n)
		}
		if e := c.do(test.flags, test.kind, test.off, test.n, payload); e != 0 {
			t.Error(e)
		}
		got := dev.took()
		if len(got) == 3 && got[2] == "sync" {
			slices.Sort(got[:2]) // pieces of a write are written in any order
			slices.Sort(test.want[:2])
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("request %d with flags %d: %q, want %q", test.kind, test.flags, got, test.want)
		}
	}

	c = serve(t, &Server{Export: Export{Device: fakeStable{dev}}}).start(false)
	for _, test := range []struct {
		off, n int
		want   []string
	}{{512, 512, []string{"write 512 at 512, stable"}}, {pieceSize - 1, 2, []string{"sync", "write 1 at 262143", "write 1 at 262144"}}} {
		if e := c.do(cmdFlagFUA, cmdWrite, uint64(test.off), uint32(test.n), make([]byte, test.n)); e != 0 {
			t.Error(e)
		}
		got := dev.took()
		if slices.Sort(got); !slices.Equal(got, test.want) {
			t.Errorf("%d bytes at %d: %q, want %q", test.n, test.off, got, test.want)
		}
	}
}

// fakePipe is one whose data lies in a pipe, in which the host cannot read ahead.
type fakePipe struct {
	*fake
	pipe *os.File
}

func (f fakePipe) Extents(off, n int64, visit func(ubdfmt.Extent) bool) error {
	return f.fake.Extents(off, n, func(e ubdfmt.Extent) bool {
		if e.File != nil {
			e.File = f.pipe
		}
		return visit(e)
	})
}

// To fill its cache the host is asked for each extent that has data, and for no hole. Its
// refusal shows that it was asked.
func TestCache(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c := serve(t, &Server{Export: Export{Device: fakePipe{&fake{size: 1 << 20}, r}}}).start(true)
	for _, test := range []struct {
		off  uint64
		n    uint32
		want errno
	}{{0, 4096, eio}, {4096, 4096, 0}, {4096, 4097, eio}, {5000, 100, 0}} {
		if e := c.do(0, cmdCache, test.off, test.n); e != test.want {
			t.Errorf("%d bytes at %d: error %d, want %d", test.n, test.off, e, test.want)
		}
	}
}

// What the disk says reaches the client in the protocol's words, and the log in its own.
func TestDiskFails(t *testing.T) {
	dev := &fake{size: 64 << 20}
	var mu sync.Mutex
	var log []string
	s := serve(t, &Server{Export: Export{Device: dev}, Logf: func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, a...))
	}})
	fail := func(err error) { dev.fail(err, func(int64) error { return err }) }
	for _, structured := range []bool{false, true} {
		fail(nil)
		c := s.start(structured)
		for err, want := range map[error]errno{
			&os.PathError{Op: "write", Path: "/secret/path", Err: unix.EIO}: eio, unix.ENOSPC: enospc, unix.EDQUOT: enospc, unix.EFBIG: enospc, unix.EROFS: eperm,
			unix.ENOMEM: enomem, io.ErrUnexpectedEOF: eio, errors.New("whatever"): eio,
		} {
			fail(err)
			for _, n := range []int{4096, 2 * pieceSize} {
				if _, _, e := c.read(0, 0, n); e != want {
					t.Errorf("read of %d bytes, %v: error %d, want %d", n, err, e, want)
				}
				if e := c.do(0, cmdWrite, 0, uint32(n), make([]byte, n)); e != want {
					t.Errorf("write of %d bytes, %v: error %d, want %d", n, err, e, want)
				}
			}
			for kind, flags := range map[uint16]uint16{cmdTrim: 0, cmdWriteZeroes: cmdFlagNoHole} {
				if e := c.do(flags, kind, 0, 4096); e != want {
					t.Errorf("request %d, %v: error %d, want %d", kind, err, e, want)
				}
			}
			if e := c.do(0, cmdFlush, 0, 0); e != want {
				t.Errorf("flush, %v: error %d, want %d", err, e, want)
			}
			if structured {
				if _, e := c.status(0, 0, 4096); e != want {
					t.Errorf("status, %v: error %d, want %d", err, e, want)
				}
			}
		}
		mu.Lock()
		if !slices.ContainsFunc(log, func(line string) bool {
			return line == fmt.Sprintf("client %d: write of 4096 bytes at 0: write /secret/path: input/output error", 1+map[bool]int{true: 1}[structured])
		}) {
			t.Errorf("the log has %q", log)
		}
		mu.Unlock()
		// Midway of a read.
		dev.fail(nil, func(off int64) error {
			if off >= 3*pieceSize {
				return unix.EIO
			}
			return nil
		})
		if structured {
			if _, _, e := c.read(0, 0, 4*pieceSize); e != eio {
				t.Errorf("a read that fails midway: error %d", e)
			}
			continue
		}
		c.send(0, cmdRead, 0, 4*pieceSize)
		b, err := io.ReadAll(c)
		if len(b) != 16+3*pieceSize || err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a read that fails midway: %d bytes, %v", len(b), err)
		}
	}
}
