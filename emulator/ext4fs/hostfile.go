package ext4fs

import (
	"os"

	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"github.com/umlkit/umlkit/emulator/hostfile"
)

// hostFile is a host file of a disk: an image, a COW file or its backing file. It is only
// ever mapped for reading. Its pages need no accounting of references: the file stays open
// as long as the filesystem, which outlives every mapping of its files.
type hostFile struct{ hostfile.File }

func newHostFile(f *os.File) *hostFile {
	h := &hostFile{}
	h.Init(int(f.Fd()), f.Name(), false)
	return h
}

// IncRef implements memmap.File.
func (h *hostFile) IncRef(fr memmap.FileRange, memCgID uint32) {}

// DecRef implements memmap.File.
func (h *hostFile) DecRef(fr memmap.FileRange) {}
