package ubd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/internal/sentrytest"
	"github.com/umlkit/umlkit/ubdfmt"
)

// image makes a file of n zeros.
func image(t testing.TB, name string, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	return path
}

// machine is disks and who opens them.
type machine struct {
	*sentrytest.Sentry
	t     testing.TB
	disks *Disks
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{Sentry: sentrytest.New(t), t: t, disks: New(Options{Logf: t.Logf})}
	if err := m.disks.Register(m.VFS); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.disks.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

func (m *machine) configure(unit, spec string) {
	m.t.Helper()
	if err := m.disks.Configure(unit, spec); err != nil {
		m.t.Fatalf("ubd%s=%s: %v", unit, spec, err)
	}
}

// open opens a disk until the test's end.
func (m *machine) open(minor, flags uint32) *vfs.FileDescription {
	m.t.Helper()
	fd, err := m.Open(vfs.BlockDevice, Major, minor, flags)
	if err != nil {
		m.t.Fatalf("open 98:%d: %v", minor, err)
	}
	m.t.Cleanup(func() { fd.DecRef(m.Context) })
	return fd
}

// ioctl passes p, which is read and written.
func (m *machine) ioctl(fd *vfs.FileDescription, cmd uint32, p []byte) error {
	args := arch.SyscallArguments{{}, {Value: uintptr(cmd)}, {Value: 0}}
	_, err := fd.Ioctl(m.Context, &usermem.BytesIO{Bytes: p}, unix.SYS_IOCTL, args)
	return err
}

func (m *machine) ioctl64(fd *vfs.FileDescription, cmd uint32) (uint64, error) {
	var p [8]byte
	err := m.ioctl(fd, cmd, p[:])
	return binary.NativeEndian.Uint64(p[:]), err
}

func TestDriver(t *testing.T) {
	m := newMachine(t)
	img, other := image(t, "img", 1<<20), image(t, "other", 1<<20)
	cow := filepath.Join(t.TempDir(), "cow")
	dir := t.TempDir()
	ok := func(err error) (string, error) { return "", err }
	for _, test := range []struct {
		name string
		do   func() (string, error)
		code driver.Code
		text string
	}{
		{"describe none", func() (string, error) { return m.disks.Describe("0") }, 0, ""},
		{"configure", func() (string, error) { return ok(m.disks.Configure("0", img)) }, 0, ""},
		{"describe", func() (string, error) { return m.disks.Describe("a") }, 0, img},
		{"twice", func() (string, error) { return ok(m.disks.Configure("0", other)) }, -16, "Device is already configured"},
		{"missing", func() (string, error) { return ok(m.disks.Configure("1", "/no/such")) }, -2, "Couldn't determine size of device's file"},
		{"directory", func() (string, error) { return ok(m.disks.Configure("1", dir)) }, -21, fmt.Sprintf("Failed to open '%s', errno = 21", dir)},
		{"empty", func() (string, error) { return ok(m.disks.Configure("1", image(t, "empty", 0))) }, -22, "Couldn't determine size of device's file"},
		{"cow", func() (string, error) { return ok(m.disks.Configure("2", cow+","+other)) }, 0, ""},
		{"describe cow", func() (string, error) { return m.disks.Describe("2") }, 0, cow + "," + other},
		{"remove nothing named", func() (string, error) { return ok(m.disks.Remove("")) }, 1, "Couldn't parse device number"},
		{"remove wrong", func() (string, error) { return ok(m.disks.Remove("x")) }, 1, "Invalid device number - must be between 0 and 15"},
		{"remove out of range", func() (string, error) { return ok(m.disks.Remove("16")) }, 1, "Invalid device number - must be between 0 and 15"},
		{"remove none", func() (string, error) { return ok(m.disks.Remove("7")) }, -19, "Device doesn't exist"},
		{"remove", func() (string, error) { return ok(m.disks.Remove("0")) }, 0, ""},
		{"remove again", func() (string, error) { return ok(m.disks.Remove("0")) }, -19, "Device doesn't exist"},
		{"configure again", func() (string, error) { return ok(m.disks.Configure("0", img)) }, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, err := test.do()
			code := driver.Code(0)
			if err != nil {
				code, text = driver.Status(err)
			}
			if code != test.code || text != test.text {
				t.Errorf("%d %q, want %d %q", code, text, test.code, test.text)
			}
		})
	}
	var directory *DirectoryError
	if err := m.disks.Configure("1", dir); !errors.As(err, &directory) || directory.Path != dir || directory.Unit != 1 {
		t.Errorf("a directory: %#v", err)
	}
	for _, unit := range []string{"99", "z", "0q"} {
		why := map[string]string{"99": "Device number out of range", "z": "Device number out of range", "0q": "Expected '=' or flag letter (r, s, c, t or d)"}[unit]
		if got, want := BootError(unit, "x", m.disks.Configure(unit, "x")), fmt.Sprintf("Failed to initialize device with \"%s=x\" : %s", unit, why); got != want {
			t.Errorf("BootError: %q, want %q", got, want)
		}
	}
	if got := BootError("1r", "/no/such", m.disks.Configure("1r", "/no/such")); got != "Failed to initialize ubd device 1 :Couldn't determine size of device's file" {
		t.Errorf("BootError: %q", got)
	}
}

func TestLockedByAnother(t *testing.T) {
	img := image(t, "img", 1<<20)
	first, second := newMachine(t), newMachine(t)
	first.configure("0", img)
	err := second.disks.Configure("0", img)
	var locked *ubdfmt.LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("the second machine: %v, want a LockedError", err)
	}
	if code, text := driver.Status(err); code != -11 || !strings.HasPrefix(text, fmt.Sprintf("Failed to lock '%s', err = 11", img)) {
		t.Errorf("%d %q", code, text)
	}
	second.configure("0c", image(t, "shared", 4096))
}

func TestNodes(t *testing.T) {
	var told []string
	d := New(Options{Changed: func(nodes []Node, added bool) {
		for _, n := range nodes {
			told = append(told, fmt.Sprintf("%v %s %d:%d", added, n.Name, n.Major, n.Minor))
		}
	}})
	defer d.Close()
	if err := d.Configure("b", image(t, "img", 4096)); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("1"); err != nil {
		t.Fatal(err)
	}
	want := "[true ubdb 98:16 true ubd1 98:16 false ubdb 98:16 false ubd1 98:16]"
	if got := fmt.Sprint(told); got != want {
		t.Errorf("told %s, want %s", got, want)
	}
}

func TestHolders(t *testing.T) {
	m := newMachine(t)
	m.configure("0", image(t, "img", 1<<20))
	if _, err := m.Open(vfs.BlockDevice, Major, 16, linux.O_RDONLY); !linuxerr.Equals(linuxerr.ENXIO, err) {
		t.Errorf("open what is not there: %v, want ENXIO", err)
	}
	if _, err := m.Open(vfs.BlockDevice, Major, 1, linux.O_RDONLY); !linuxerr.Equals(linuxerr.ENXIO, err) {
		t.Errorf("open a partition that is not there: %v, want ENXIO", err)
	}
	if _, err := m.disks.Claim(Major, 16); !linuxerr.Equals(linuxerr.ENXIO, err) {
		t.Errorf("claim what is not there: %v, want ENXIO", err)
	}
	disk, err := m.disks.Claim(Major, 0)
	if err != nil {
		t.Fatal(err)
	}
	if disk.Name != "ubda" || disk.Major != 98 || disk.Minor != 0 || disk.ReadOnly || disk.Device.Size() != 1<<20 {
		t.Errorf("claimed %+v", disk)
	}
	if _, err := m.disks.Claim(Major, 0); !linuxerr.Equals(linuxerr.EBUSY, err) {
		t.Errorf("claim twice: %v, want EBUSY", err)
	}
	if _, err := m.Open(vfs.BlockDevice, Major, 0, linux.O_RDWR|linux.O_EXCL); !linuxerr.Equals(linuxerr.EBUSY, err) {
		t.Errorf("open a mounted disk with O_EXCL: %v, want EBUSY", err)
	}
	fd, err := m.Open(vfs.BlockDevice, Major, 0, linux.O_RDWR)
	if err != nil {
		t.Fatalf("open a mounted disk: %v", err)
	}
	if l, ok := disk.Device.(interface{ Layered() bool }); !ok || l.Layered() {
		t.Error("a raw image is taken for a COW file")
	}
	disk.Release()
	disk.Release()
	if code, _ := driver.Status(m.disks.Remove("0")); code != -16 {
		t.Errorf("remove an open disk: %d, want -16", code)
	}
	excl, err := m.Open(vfs.BlockDevice, Major, 0, linux.O_RDWR|linux.O_EXCL)
	if err != nil {
		t.Fatalf("open with O_EXCL: %v", err)
	}
	if _, err := m.disks.Claim(Major, 0); !linuxerr.Equals(linuxerr.EBUSY, err) {
		t.Errorf("mount what fsck has: %v, want EBUSY", err)
	}
	excl.DecRef(m.Context)
	fd.DecRef(m.Context)
	if err := m.disks.Remove("0"); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	m := newMachine(t)
	m.configure("0r", image(t, "img", 1<<20))
	if _, err := m.Open(vfs.BlockDevice, Major, 0, linux.O_RDWR); !linuxerr.Equals(linuxerr.EROFS, err) {
		t.Errorf("open for writing: %v, want EROFS", err)
	}
	fd := m.open(0, linux.O_RDONLY)
	if v, err := m.ioctl64(fd, unix.BLKROGET); err != nil || v != 1 {
		t.Errorf("BLKROGET = %d, %v", v, err)
	}
	m.configure("1", image(t, "other", 1<<20))
	fd = m.open(16, linux.O_RDWR)
	if err := m.ioctl(fd, unix.BLKROSET, []byte{1, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := fd.PWrite(m.Context, usermem.BytesIOSequence([]byte("x")), 0, vfs.WriteOptions{}); !linuxerr.Equals(linuxerr.EPERM, err) {
		t.Errorf("write: %v, want EPERM", err)
	}
	if err := m.ioctl(fd, unix.BLKDISCARD, make([]byte, 16)); !linuxerr.Equals(linuxerr.EPERM, err) {
		t.Errorf("BLKDISCARD: %v, want EPERM", err)
	}
}

// rangeOf is the argument of BLKDISCARD and BLKZEROOUT.
func rangeOf(off, n uint64) []byte {
	return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, off), n)
}

// TestAgainstModel does random things to a raw image and to a COW file, and to bytes.
func TestAgainstModel(t *testing.T) {
	const size = 1<<20 + 512
	for _, kind := range []string{"raw", "cow", "no trim"} {
		t.Run(kind, func(t *testing.T) {
			m := newMachine(t)
			img := image(t, "img", size)
			rng := rand.New(rand.NewPCG(1, 2))
			model := make([]byte, size)
			for i := range model {
				model[i] = byte(rng.Uint32())
			}
			if err := os.WriteFile(img, model, 0o600); err != nil {
				t.Fatal(err)
			}
			switch kind {
			case "raw":
				m.configure("0", img)
			case "cow":
				m.configure("0", filepath.Join(t.TempDir(), "cow")+","+img)
			case "no trim":
				m.configure("0t", img)
			}
			fd := m.open(0, linux.O_RDWR)
			for i := range 2000 {
				off := rng.Int64N(size + 100)
				n := rng.Int64N(9000)
				end := min(off+n, size)
				switch rng.IntN(6) {
				case 0, 1:
					buf := make([]byte, n)
					for j := range buf {
						buf[j] = byte(rng.Uint32())
					}
					got, err := fd.PWrite(m.Context, usermem.BytesIOSequence(buf), off, vfs.WriteOptions{})
					if n > 0 && off >= size {
						if !linuxerr.Equals(linuxerr.ENOSPC, err) {
							t.Fatalf("%d: write past the end: %v", i, err)
						}
						break
					}
					if want := max(end-off, 0); err != nil || n > 0 && got != want {
						t.Fatalf("%d: write %d at %d = %d, %v", i, n, off, got, err)
					}
					if n > 0 {
						copy(model[off:end], buf)
					}
				case 2, 3:
					buf := make([]byte, n)
					got, err := fd.PRead(m.Context, usermem.BytesIOSequence(buf), off, vfs.ReadOptions{})
					if want := max(end-off, 0); err != nil || got != want {
						t.Fatalf("%d: read %d at %d = %d, %v; want %d", i, n, off, got, err, want)
					}
					if got > 0 && !bytes.Equal(buf[:got], model[off:end]) {
						t.Fatalf("%d: read %d at %d gives other bytes", i, n, off)
					}
				default:
					off, end := off&^511, end&^511
					if off >= end {
						break
					}
					cmd := uint32(unix.BLKDISCARD)
					if rng.IntN(2) == 0 {
						cmd = unix.BLKZEROOUT
					}
					err := m.ioctl(fd, cmd, rangeOf(uint64(off), uint64(end-off)))
					if kind == "no trim" && cmd == unix.BLKDISCARD {
						if !linuxerr.Equals(linuxerr.EOPNOTSUPP, err) {
							t.Fatalf("%d: discard: %v, want EOPNOTSUPP", i, err)
						}
						break
					}
					if err != nil {
						t.Fatalf("%d: discard or zero [%d, %d): %v", i, off, end, err)
					}
					clear(model[off:end])
				}
			}
		})
	}
}

func TestSeekReadWrite(t *testing.T) {
	m := newMachine(t)
	m.configure("0", image(t, "img", 8192))
	fd := m.open(0, linux.O_RDWR)
	for _, test := range []struct {
		offset int64
		whence int32
		want   int64
		err    error
	}{
		{0, linux.SEEK_END, 8192, nil},
		{-100, linux.SEEK_CUR, 8092, nil},
		{1, linux.SEEK_END, 0, linuxerr.EINVAL},
		{-1, linux.SEEK_SET, 0, linuxerr.EINVAL},
		{0, linux.SEEK_HOLE, 0, linuxerr.EINVAL},
		{8000, linux.SEEK_SET, 8000, nil},
	} {
		if got, err := fd.Seek(m.Context, test.offset, test.whence); got != test.want || err != test.err {
			t.Errorf("seek %d %d = %d, %v; want %d, %v", test.offset, test.whence, got, err, test.want, test.err)
		}
	}
	if n, err := fd.Write(m.Context, usermem.BytesIOSequence(bytes.Repeat([]byte{7}, 300)), vfs.WriteOptions{}); n != 192 || err != nil {
		t.Errorf("write over the end = %d, %v", n, err)
	}
	if n, err := fd.Read(m.Context, usermem.BytesIOSequence(make([]byte, 10)), vfs.ReadOptions{}); n != 0 || err != io.EOF {
		t.Errorf("read at the end = %d, %v", n, err)
	}
	direct := m.open(0, linux.O_RDWR|linux.O_DIRECT)
	if _, err := direct.PRead(m.Context, usermem.BytesIOSequence(make([]byte, 100)), 0, vfs.ReadOptions{}); !linuxerr.Equals(linuxerr.EINVAL, err) {
		t.Errorf("a direct read of 100 bytes: %v, want EINVAL", err)
	}
	if n, err := direct.PRead(m.Context, usermem.BytesIOSequence(make([]byte, 1024)), 7680, vfs.ReadOptions{}); n != 512 || err != nil {
		t.Errorf("a direct read = %d, %v", n, err)
	}
}

func TestIoctls(t *testing.T) {
	m := newMachine(t)
	m.configure("0", image(t, "img", 10<<20)+",,SERIAL-1")
	fd := m.open(0, linux.O_RDWR)
	for _, test := range []struct {
		name string
		cmd  uint32
		want uint64
	}{
		{"BLKGETSIZE64", unix.BLKGETSIZE64, 10 << 20},
		{"BLKGETSIZE", unix.BLKGETSIZE, 20 << 10},
		{"BLKSSZGET", unix.BLKSSZGET, 512},
		{"BLKPBSZGET", unix.BLKPBSZGET, 512},
		{"BLKBSZGET", unix.BLKBSZGET, 4096},
		{"BLKIOMIN", unix.BLKIOMIN, 512},
		{"BLKIOOPT", unix.BLKIOOPT, 0},
		{"BLKALIGNOFF", unix.BLKALIGNOFF, 0},
		{"BLKROGET", unix.BLKROGET, 0},
		{"BLKRAGET", unix.BLKRAGET, 256},
		{"BLKROTATIONAL", unix.BLKROTATIONAL, 0},
		{"BLKDISCARDZEROES", unix.BLKDISCARDZEROES, 0},
		{"BLKGETDISKSEQ", blkGetDiskSeq, 1},
	} {
		if got, err := m.ioctl64(fd, test.cmd); err != nil || got != test.want {
			t.Errorf("%s = %d, %v; want %d", test.name, got, err, test.want)
		}
	}
	for _, test := range []struct {
		name string
		cmd  uint32
		arg  []byte
		want error
	}{
		{"BLKBSZSET", unix.BLKBSZSET, []byte{0, 4, 0, 0, 0, 0, 0, 0}, nil},
		{"BLKBSZSET 3", unix.BLKBSZSET, []byte{3, 0, 0, 0, 0, 0, 0, 0}, linuxerr.EINVAL},
		{"BLKBSZSET 8192", unix.BLKBSZSET, []byte{0, 32, 0, 0, 0, 0, 0, 0}, linuxerr.EINVAL},
		{"BLKFLSBUF", unix.BLKFLSBUF, nil, nil},
		{"BLKRRPART", unix.BLKRRPART, nil, nil},
		{"BLKSECDISCARD", unix.BLKSECDISCARD, rangeOf(0, 512), linuxerr.EOPNOTSUPP},
		{"BLKDISCARD odd", unix.BLKDISCARD, rangeOf(1, 512), linuxerr.EINVAL},
		{"BLKDISCARD empty", unix.BLKDISCARD, rangeOf(0, 0), linuxerr.EINVAL},
		{"BLKDISCARD far", unix.BLKDISCARD, rangeOf(1<<63, 1<<63), linuxerr.EINVAL},
		{"BLKDISCARD past", unix.BLKDISCARD, rangeOf(10<<20, 512), linuxerr.EINVAL},
		{"CDROM", 0x5331, nil, linuxerr.ENOTTY},
		{"TCGETS", linux.TCGETS, nil, linuxerr.ENOTTY},
	} {
		if err := m.ioctl(fd, test.cmd, test.arg); err != test.want && !(test.want != nil && errors.Is(err, test.want)) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	geometry := make([]byte, 16)
	if err := m.ioctl(fd, hdioGetGeometry, geometry); err != nil || !bytes.Equal(geometry, []byte{128, 32, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("HDIO_GETGEO = %v, %v", geometry, err)
	}
	identity := make([]byte, 512)
	if err := m.ioctl(fd, hdioGetIdentity, identity); err != nil || strings.TrimSpace(string(identity[20:40])) != "SERIAL-1" {
		t.Errorf("HDIO_GET_IDENTITY = %q, %v", identity[20:40], err)
	}
	if err := m.ioctl(m.open(0, linux.O_RDONLY), unix.BLKDISCARD, rangeOf(0, 512)); !linuxerr.Equals(linuxerr.EBADF, err) {
		t.Errorf("BLKDISCARD without write: %v, want EBADF", err)
	}
}

// TestMapping maps a disk as a task would, without the task.
func TestMapping(t *testing.T) {
	m := newMachine(t)
	const size = 3*hostarch.PageSize + 512
	img := image(t, "img", size)
	m.configure("0", filepath.Join(t.TempDir(), "cow")+","+img)
	fd := m.open(0, linux.O_RDWR)
	write := func(off int64, b byte, n int) {
		t.Helper()
		if _, err := fd.PWrite(m.Context, usermem.BytesIOSequence(bytes.Repeat([]byte{b}, n)), off, vfs.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(off int64) byte {
		t.Helper()
		p := []byte{0}
		if _, err := fd.PRead(m.Context, usermem.BytesIOSequence(p), off, vfs.ReadOptions{}); err != nil {
			t.Fatal(err)
		}
		return p[0]
	}
	write(0, 1, size)
	var opts memmap.MMapOpts
	opts.Length = 4 * hostarch.PageSize
	if err := fd.ConfigureMMap(m.Context, &opts); err != nil {
		t.Fatal(err)
	}
	defer opts.MappingIdentity.DecRef(m.Context)
	ar := hostarch.AddrRange{Start: 0x10000, End: 0x10000 + 5*hostarch.PageSize}
	if err := opts.Mappable.AddMapping(m.Context, nobody{}, ar, 0, true); err != nil {
		t.Fatal(err)
	}
	translate := func(page uint64, at hostarch.AccessType) []byte {
		t.Helper()
		mr := memmap.MappableRange{Start: page * hostarch.PageSize, End: (page + 1) * hostarch.PageSize}
		ts, err := opts.Mappable.Translate(m.Context, mr, mr, at)
		if err := memmap.CheckTranslateResult(mr, mr, at, ts, err); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatalf("translate page %d: %v", page, err)
		}
		blocks, err := ts[0].File.MapInternal(ts[0].FileRange(), at)
		if err != nil {
			t.Fatal(err)
		}
		return blocks.Head().ToSlice()
	}
	page := translate(1, hostarch.ReadWrite)
	if page[0] != 1 || page[4095] != 1 {
		t.Errorf("the page has %d", page[0])
	}
	write(hostarch.PageSize+10, 2, 1)
	if page[10] != 2 {
		t.Error("a write is not seen through the mapping")
	}
	page[20] = 3
	if read(hostarch.PageSize+20) != 3 {
		t.Error("what was stored through the mapping is not read")
	}
	page[30] = 4
	write(hostarch.PageSize+40, 5, 1)
	if page[30] != 4 || page[40] != 5 {
		t.Error("a write beside a store loses one of them")
	}
	last := translate(3, hostarch.Read)
	if last[511] != 1 || last[512] != 0 {
		t.Errorf("at the disk's end: %d %d, want 1 0", last[511], last[512])
	}
	beyond := memmap.MappableRange{Start: 4 * hostarch.PageSize, End: 5 * hostarch.PageSize}
	var bus *memmap.BusError
	if _, err := opts.Mappable.Translate(m.Context, beyond, beyond, hostarch.Read); !errors.As(err, &bus) {
		t.Errorf("beyond the end: %v, want a BusError", err)
	}
	if err := m.ioctl(fd, unix.BLKDISCARD, rangeOf(hostarch.PageSize, 512)); err != nil {
		t.Fatal(err)
	}
	if page[0] != 0 || page[511] != 0 || page[512] != 1 {
		t.Error("a discard is not seen through the mapping")
	}
	page[600] = 6
	opts.Mappable.RemoveMapping(m.Context, nobody{}, ar, 0, true)
	p := &m.disks.disk(0, 0).pages
	if p.mapped || !p.cache.IsEmpty() || !p.dirty.IsEmpty() {
		t.Error("copies outlive the mapping")
	}
	if read(hostarch.PageSize+600) != 6 {
		t.Error("what was stored last is lost")
	}
}

// nobody is a mapping space that has nothing to invalidate.
type nobody struct{}

// Invalidate implements memmap.MappingSpace.Invalidate.
func (nobody) Invalidate(hostarch.AddrRange, memmap.InvalidateOpts) {}

func TestStatistics(t *testing.T) {
	m := newMachine(t)
	m.configure("0", image(t, "img", 10<<20))
	fd := m.open(0, linux.O_RDWR)
	buf := make([]byte, 8192)
	for range 3 {
		if _, err := fd.PRead(m.Context, usermem.BytesIOSequence(buf), 0, vfs.ReadOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fd.PWrite(m.Context, usermem.BytesIOSequence(buf[:512]), 0, vfs.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := fd.Sync(m.Context); err != nil {
		t.Fatal(err)
	}
	disk, err := m.disks.Claim(Major, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Release()
	if _, err := disk.Device.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^  98       0 ubda 3 0 48 \d+ 2 0 17 \d+ 0 \d+ \d+ 0 0 0 0 1 \d+\n$`)
	if got := m.disks.Diskstats(); !want.Match(got) {
		t.Errorf("diskstats %q, want %v", got, want)
	}
	if got, want := string(m.disks.Partitions()), "major minor  #blocks  name\n\n  98        0      10240 ubda\n"; got != want {
		t.Errorf("partitions %q, want %q", got, want)
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4096, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m := newMachine(b)
			m.configure("0", image(b, "img", 64<<20))
			fd := m.open(0, linux.O_RDONLY)
			dst := usermem.BytesIOSequence(make([]byte, size))
			b.SetBytes(int64(size))
			off := int64(0)
			for b.Loop() {
				if _, err := fd.PRead(m.Context, dst, off, vfs.ReadOptions{}); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(size)) % (64 << 20)
			}
		})
	}
}
