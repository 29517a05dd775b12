package ubd

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

// partitioned gives an image a table.
func partitioned(t testing.TB, path string, kind partition.Kind, specs ...partition.Spec) {
	t.Helper()
	dev, err := ubdfmt.OpenRaw(path, ubdfmt.Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	table, err := partition.New(kind, dev.Size(), [16]byte{1}, specs)
	if err != nil {
		t.Fatal(err)
	}
	if err := partition.Write(dev, table); err != nil {
		t.Fatal(err)
	}
}

// A disk and its partitions have one exclusive holder among them or several partitions
// have theirs, as on Linux.
func TestPartitionHolders(t *testing.T) {
	m := newMachine(t)
	path := image(t, "img", 16<<20)
	partitioned(t, path, partition.MBR, partition.Spec{Size: 2 << 20}, partition.Spec{Size: 10 << 20, Type: "5"}, partition.Spec{Size: 1 << 20}, partition.Spec{Size: 1 << 20})
	var told []string
	m.disks.changed = func(nodes []Node, added bool) {
		for _, n := range nodes {
			told = append(told, fmt.Sprintf("%v %s %d", added, n.Name, n.Minor))
		}
	}
	m.configure("1", path)
	if got, want := strings.Join(told, ", "), "true ubdb 16, true ubd1 16, true ubdb1 17, true ubdb2 18, true ubdb5 21, true ubdb6 22"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	told = nil
	claim := func(minor uint32, want *errors.Error) func() {
		t.Helper()
		d, err := m.disks.Claim(Major, minor)
		if want == nil {
			if err != nil {
				t.Fatalf("claim 98:%d: %v", minor, err)
			}
			return d.Release
		}
		if !linuxerr.Equals(want, err) {
			t.Errorf("claim 98:%d: %v, want %v", minor, err, want)
		}
		return nil
	}
	claim(19, linuxerr.ENXIO)
	five := claim(21, nil)
	claim(21, linuxerr.EBUSY)
	claim(16, linuxerr.EBUSY)
	six := claim(22, nil)
	fd := m.open(16, linux.O_RDWR)
	if err := m.ioctl(fd, unix.BLKRRPART, nil); !linuxerr.Equals(linuxerr.EBUSY, err) {
		t.Errorf("BLKRRPART with mounted partitions: %v", err)
	}
	if code, _ := driver.Status(m.disks.Remove("1")); code != -16 {
		t.Errorf("a disk with mounted partitions is removed: %d", code)
	}
	five()
	six()
	whole := claim(16, nil)
	claim(21, linuxerr.EBUSY)
	if err := m.ioctl(fd, unix.BLKRRPART, nil); !linuxerr.Equals(linuxerr.EBUSY, err) {
		t.Errorf("BLKRRPART of a mounted disk: %v", err)
	}
	whole()
	part, err := m.Open(vfs.BlockDevice, Major, 17, linux.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ioctl(fd, unix.BLKRRPART, nil); !linuxerr.Equals(linuxerr.EBUSY, err) {
		t.Errorf("BLKRRPART with an open partition: %v", err)
	}
	if err := m.ioctl(part, unix.BLKRRPART, nil); !linuxerr.Equals(linuxerr.EINVAL, err) {
		t.Errorf("BLKRRPART of a partition: %v", err)
	}
	// What goes through a partition counts for its disk too.
	b := make([]byte, 4096)
	if _, err := m.disks.units[1].parts[1].dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if n := m.disks.units[1].stats.reads.requests.Load(); n == 0 {
		t.Error("a read of a partition does not count for the disk")
	}
	part.DecRef(m.Context)
	if len(told) != 0 {
		t.Errorf("told %s of nothing", told)
	}
	if err := m.ioctl(fd, unix.BLKRRPART, nil); err != nil {
		t.Errorf("BLKRRPART: %v", err)
	}
	if got, want := strings.Join(told, ", "), "false ubdb1 17, false ubdb2 18, false ubdb5 21, false ubdb6 22, true ubdb1 17, true ubdb2 18, true ubdb5 21, true ubdb6 22"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	if size, err := m.ioctl64(m.open(18, linux.O_RDONLY), unix.BLKGETSIZE64); err != nil || size != 1024 {
		t.Errorf("an extended partition has %d bytes, %v", size, err)
	}
	if got := string(m.disks.Partitions()); !strings.HasSuffix(got, "\n  98       16      16384 ubdb\n  98       17       2048 ubdb1\n  98       18          1 ubdb2\n  98       21       1024 ubdb5\n  98       22       1024 ubdb6\n") {
		t.Errorf("/proc/partitions:\n%s", got)
	}
}

// BLKROSET of a disk holds for its partitions, and not the other way.
func TestPartitionReadOnly(t *testing.T) {
	m := newMachine(t)
	path := image(t, "img", 16<<20)
	partitioned(t, path, partition.GPT, partition.Spec{Size: 2 << 20}, partition.Spec{})
	m.configure("0", path)
	one, whole := []byte{1, 0, 0, 0}, m.open(0, linux.O_RDWR)
	part, other := m.open(1, linux.O_RDWR), m.open(2, linux.O_RDWR)
	state := func(fd *vfs.FileDescription) byte {
		var b [4]byte
		if err := m.ioctl(fd, unix.BLKROGET, b[:]); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	if err := m.ioctl(part, unix.BLKROSET, one); err != nil {
		t.Fatal(err)
	}
	if state(part) != 1 || state(other) != 0 || state(whole) != 0 {
		t.Errorf("after a partition: %d %d %d", state(part), state(other), state(whole))
	}
	if err := m.ioctl(whole, unix.BLKROSET, one); err != nil {
		t.Fatal(err)
	}
	if state(other) != 1 {
		t.Error("a partition of a read-only disk can be written")
	}
}

// A removed disk takes its partitions along.
func TestPartitionsGoWithTheDisk(t *testing.T) {
	m := newMachine(t)
	path := image(t, "img", 16<<20)
	partitioned(t, path, partition.GPT, partition.Spec{})
	m.configure("0", path)
	if err := m.disks.Remove("0"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open(vfs.BlockDevice, Major, 1, linux.O_RDONLY); !linuxerr.Equals(linuxerr.ENXIO, err) {
		t.Errorf("a partition of a disk that went: %v, want ENXIO", err)
	}
	if len(m.disks.List()) != 0 {
		t.Errorf("left: %+v", m.disks.List())
	}
}
