package emulator

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"

	"github.com/umlkit/umlkit/emulator/klog"
)

// memoryFile makes the file that is the guest's memory, in the first fitting place of
// those User Mode Linux uses. Guest code is mapped from it, so the place must allow
// execution, and it must have room for all of the memory: a full disk would be a bus
// error in the guest. The file has no name. shared is whether others may fill the place where it lies.
func (m *Machine) memoryFile() (mf *pgalloc.MemoryFile, shared bool, err error) {
	file, disk := m.memoryPlace()
	if shared = file != nil; !shared {
		fd, err := memutil.CreateMemFD("memory", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, false, fmt.Errorf("make the guest's memory: memfd_create: %w", err)
		}
		file = os.NewFile(uintptr(fd), "memory")
	}
	mf, err = pgalloc.NewMemoryFile(file, pgalloc.MemoryFileOpts{
		DiskBackedFile:    disk,
		DecommitOnDestroy: disk,
	})
	if err != nil {
		file.Close()
		return nil, false, fmt.Errorf("make the guest's memory: %w", err)
	}
	return mf, shared, nil
}

// memoryPlace tries the places in order. It returns nil when none fits; disk is
// whether the file is on a disk and not in the host's memory.
func (m *Machine) memoryPlace() (file *os.File, disk bool) {
	var places []string
	for _, name := range []string{"TMPDIR", "TMP", "TEMP"} {
		if dir := os.Getenv(name); dir != "" {
			places = append(places, dir)
		}
	}
	for _, dir := range append(places, "/dev/shm", "/tmp") {
		file, kind, err := m.memoryIn(dir)
		if err == nil {
			return file, kind != unix.TMPFS_MAGIC
		}
		m.printk(klog.Info, "memory file: not in %s: %v", dir, err)
	}
	return nil, false
}

// memoryIn makes a nameless file in dir, if guest memory can live there.
func (m *Machine) memoryIn(dir string) (*os.File, int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, 0, err
	}
	if dir == "/dev/shm" && st.Type != unix.TMPFS_MAGIC {
		return nil, 0, fmt.Errorf("no tmpfs")
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return nil, 0, fmt.Errorf("mounted noexec")
	}
	if free := int64(st.Bavail) * st.Bsize; st.Blocks != 0 && free < m.config.Memory {
		return nil, 0, fmt.Errorf("%d MiB free, %d MiB wanted", free>>20, m.config.Memory>>20)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC|unix.O_EXCL, 0o600)
	if err != nil {
		f, err := os.CreateTemp(dir, "vm_file-")
		if err != nil {
			return nil, 0, err
		}
		os.Remove(f.Name())
		return f, st.Type, nil
	}
	return os.NewFile(uintptr(fd), dir+"/vm_file"), st.Type, nil
}
