package ext4fs_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// region is a mapping of a host file in a process, as smaps tells it. Sizes are bytes.
type region struct {
	perms                 string
	size, rss, pss, dirty int64
}

// regions are the mappings of file in the children of a machine, the processes whose
// address spaces are the guest's.
func regions(t testing.TB, machine int, file string) []region {
	t.Helper()
	var out []region
	for _, pid := range descendants(t, machine) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
		if err != nil {
			continue // it has ended
		}
		var r *region
		s := bufio.NewScanner(strings.NewReader(string(data)))
		for s.Scan() {
			f := strings.Fields(s.Text())
			switch {
			case len(f) >= 5 && strings.Contains(f[0], "-") && !strings.HasSuffix(f[0], ":"):
				r = nil
				if len(f) > 5 && f[5] == file {
					out = append(out, region{perms: f[1]})
					r = &out[len(out)-1]
				}
			case r != nil && len(f) == 3 && f[2] == "kB":
				n, _ := strconv.ParseInt(f[1], 10, 64)
				switch n <<= 10; f[0] {
				case "Size:":
					r.size = n
				case "Rss:":
					r.rss = n
				case "Pss:":
					r.pss = n
				case "Private_Dirty:", "Shared_Dirty:":
					r.dirty += n
				}
			}
		}
	}
	return out
}

// descendants are the processes below pid, without it.
func descendants(t testing.TB, pid int) []int {
	t.Helper()
	parent := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		parent[p], _ = strconv.Atoi(f[1])
	}
	var out []int
	for p := range parent {
		for q := parent[p]; q > 1; q = parent[q] {
			if q == pid {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

func total(rs []region) (size, rss, pss int64) {
	for _, r := range rs {
		size, rss, pss = size+r.size, rss+r.rss, pss+r.pss
	}
	return size, rss, pss
}

// hold boots a machine whose first process fills a file of mib MiB and maps it, and
// waits until it does. With mib 0 the file is on the disk already.
func hold(t *testing.T, disk string, mib int, kernel ...string) *guest.Machine {
	t.Helper()
	dir := t.TempDir()
	argv := append(ours(t, dir).argv, "con=null", "con0=null,fd:1", "quiet", "ubd0="+disk, "root=/dev/ubda", "rw", "init=/fscheck")
	argv = append(append(argv, kernel...), "--")
	if mib > 0 {
		argv = append(argv, "fill", "/t/data", fmt.Sprint(mib), "then")
	}
	argv = append(argv, "hold", "/t/data", "60")
	m := guest.StartCmd(t, exec.Command(argv[0], argv[1:]...))
	m.Expect(2*time.Minute, "held")
	return m
}

// mapped fails the test unless the guest's mappings of its file are mappings of the
// host file; with not, unless they are not.
func mapped(t *testing.T, m *guest.Machine, file string, mib int, not bool) {
	t.Helper()
	size, _, _ := total(regions(t, m.PID(), file))
	// The program itself is mapped, too; what counts is its data, mapped twice.
	want := int64(mib) << 20 * 2
	switch {
	case not && size != 0:
		t.Errorf("%d bytes of %s are mapped in the guest, want none", size, file)
	case !not && size < want:
		t.Errorf("%d bytes of %s are mapped in the guest, want %d", size, file, want)
	}
}

func TestFilesAreMappedFromTheHost(t *testing.T) {
	t.Run("raw", func(t *testing.T) {
		image := newImage(t, "200M")
		m := hold(t, image, 16)
		mapped(t, m, image, 16, false)
		rs := regions(t, m.PID(), image)
		if len(rs) > 60 {
			t.Errorf("%d mappings for a file of few extents", len(rs))
		}
		for _, r := range rs {
			if strings.Contains(r.perms, "w") {
				t.Errorf("a mapping of the image is writable: %+v", r)
			}
		}
	})
	t.Run("cow", func(t *testing.T) {
		image := newImage(t, "200M")
		cow := filepath.Join(t.TempDir(), "disk.cow")
		m := hold(t, cow+","+image, 16)
		mapped(t, m, cow, 16, false)
	})
}

// TestGuestsShareTheBackingFile shows that the memory of two guests over one backing
// file is there once: each has the whole file mapped and is charged half of it.
func TestGuestsShareTheBackingFile(t *testing.T) {
	const mib = 64
	image := newImage(t, "300M")
	ours(t, t.TempDir()).run(t, time.Minute, image, nil, "fill", "/t/data", fmt.Sprint(mib))
	var ms []*guest.Machine
	for i := range 2 {
		cow := filepath.Join(t.TempDir(), fmt.Sprintf("disk%d.cow", i))
		ms = append(ms, hold(t, cow+","+image, 0))
	}
	for i, m := range ms {
		_, rss, pss := total(regions(t, m.PID(), image))
		if rss < 2*mib<<20 {
			t.Errorf("machine %d has %d bytes of the backing file in memory, want the file twice (%d)", i, rss, 2*mib<<20)
		}
		// Each page is mapped at least four times: twice by each guest's process.
		if pss > rss/3 {
			t.Errorf("machine %d is charged %d of %d bytes: they are not shared", i, pss, rss)
		}
	}
}

// The cases in which a page cannot be the host's.

func TestSmallBlocksAreCopied(t *testing.T) {
	image := newImage(t, "200M", "-b", "1024")
	mapped(t, hold(t, image, 16), image, 16, true)
}

// oddCOW makes an empty COW file of version 3 whose parts are aligned to sectors, not
// to pages.
func oddCOW(t *testing.T, cow, backing string) {
	t.Helper()
	info, err := os.Stat(backing)
	if err != nil {
		t.Fatal(err)
	}
	const align = 512
	up := func(n int64) int64 { return (n + align - 1) / align * align }
	b := binary.BigEndian.AppendUint32(nil, 0x4f4f4f4d)
	b = binary.BigEndian.AppendUint32(b, 3)
	b = binary.BigEndian.AppendUint32(b, uint32(info.ModTime().Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(info.Size()))
	b = binary.BigEndian.AppendUint32(b, 512)
	b = binary.BigEndian.AppendUint32(b, align)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, backing...)
	bitmap := (info.Size()/512 + 7) / 8
	data := up(up(4128) + bitmap)
	if data%4096 == 0 {
		t.Fatalf("a COW file over %d bytes has its data on a page boundary: take another size", info.Size())
	}
	if err := os.WriteFile(cow, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(cow, data+info.Size()); err != nil {
		t.Fatal(err)
	}
}

func TestUnalignedCOWDataIsCopied(t *testing.T) {
	image := newImage(t, "200M")
	cow := filepath.Join(t.TempDir(), "disk.cow")
	oddCOW(t, cow, image)
	m := hold(t, cow, 16)
	if size, _, _ := total(regions(t, m.PID(), cow)); size != 0 {
		t.Errorf("%d bytes of a COW file with unaligned data are mapped in the guest", size)
	}
	if size, _, _ := total(regions(t, m.PID(), image)); size == 0 {
		t.Error("nothing of the backing file is mapped: the program in it could be")
	}
}

func TestNoexecMount(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOEXEC, "size=400m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	image := filepath.Join(dir, "disk.img")
	oracle.Run(t, "cp", "--sparse=always", newImage(t, "200M"), image)
	m := hold(t, image, 16)
	for _, r := range regions(t, m.PID(), image) {
		if strings.Contains(r.perms, "x") {
			t.Errorf("mapped for execution on a noexec mount: %+v", r)
		}
	}
	if size, _, _ := total(regions(t, m.PID(), image)); size < 16<<20 {
		t.Errorf("only %d bytes are mapped for reading", size)
	}
}

// TestSmallWritesUnderMappings changes a file of the backing file in pieces smaller
// than a page while it is mapped: pages move to the COW file, and lie in part in
// each. What the guest then reads of the merged disk is what it wrote.
func TestSmallWritesUnderMappings(t *testing.T) {
	for _, odd := range []bool{false, true} {
		t.Run(fmt.Sprintf("odd=%v", odd), func(t *testing.T) {
			image := newImage(t, "200M")
			ours(t, t.TempDir()).run(t, time.Minute, image, nil, "fill", "/t/data", "8")
			cow := filepath.Join(t.TempDir(), "disk.cow")
			disk := cow + "," + image
			if odd {
				oddCOW(t, cow, image)
			}
			seed := fmt.Sprint(oracle.Seed(t))
			ours(t, t.TempDir()).run(t, time.Minute, disk, nil, "patch", "/t/data", seed, "3000")
			merged := filepath.Join(t.TempDir(), "merged")
			oracle.Run(t, guest.Binary(t, "uml_moo"), cow, merged)
			oracle.Fsck(t, merged)
		})
	}
}

// TestManyFragments maps a file of more pieces than the host allows a process to
// have mappings, or nearly so, read-only and writable.
func TestManyFragments(t *testing.T) {
	for _, disk := range []string{"raw", "cow"} {
		t.Run(disk, func(t *testing.T) {
			image := newImage(t, "900M")
			ubd := image
			if disk == "cow" {
				ubd = filepath.Join(t.TempDir(), "disk.cow") + "," + image
			}
			m := ours(t, t.TempDir())
			m.argv = append(m.argv, "mem=2G") // the file is mapped whole
			m.run(t, 5*time.Minute, ubd, nil, "fragment", "/t/data", "140000")
		})
	}
}
