package system

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// identity is what the superblock of a device says.
type identity struct {
	path, label, uuid, kind string
	blockSize               int64
}

// Blkid shows what is on block devices.
func Blkid(e *applet.Env, args []string) error {
	var o applet.Options
	paths, err := o.Parse(args)
	if err != nil {
		return err
	}
	var found []identity
	if len(paths) == 0 {
		if found, err = scanDevices(); err != nil {
			return err
		}
	}
	for _, p := range paths {
		id, ok, err := identify(p)
		e.Warn(err)
		if ok {
			found = append(found, id)
		}
	}
	for _, id := range found {
		fmt.Fprintf(e.Stdout, "%s:", id.path)
		if id.label != "" {
			fmt.Fprintf(e.Stdout, " LABEL=%q", id.label)
		}
		if id.uuid != "" {
			fmt.Fprintf(e.Stdout, " UUID=%q", id.uuid)
		}
		if id.blockSize != 0 {
			fmt.Fprintf(e.Stdout, " BLOCK_SIZE=\"%d\"", id.blockSize)
		}
		fmt.Fprintf(e.Stdout, " TYPE=%q\n", id.kind)
	}
	if len(found) == 0 {
		return applet.Status(2)
	}
	return nil
}

// scanDevices identifies what is on the block devices the kernel lists.
func scanDevices() ([]identity, error) {
	b, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return nil, err
	}
	var found []identity
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] == "major" {
			continue
		}
		// A device that cannot be read carries nothing we could mount.
		if id, ok, err := identify("/dev/" + f[3]); err == nil && ok {
			found = append(found, id)
		}
	}
	return found, nil
}

// identify reads the superblocks of the file systems a guest may meet:
// ext2/3/4 (at 1024), squashfs (at 0), swap (end of the first page).
func identify(path string) (identity, bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return identity{}, false, err
	}
	defer f.Close()
	b := make([]byte, 4096)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		if n == 0 && err != nil && err.Error() != "EOF" {
			return identity{}, false, err
		}
		return identity{}, false, nil
	}
	id := identity{path: path}
	super := b[1024:2048]
	switch {
	case binary.LittleEndian.Uint16(super[56:]) == 0xEF53:
		id.kind = extKind(super)
		id.uuid = formatUUID(super[104:120])
		id.label = cString(super[120:136])
		if shift := binary.LittleEndian.Uint32(super[24:]); shift <= 6 {
			id.blockSize = 1024 << shift
		}
	case bytes.HasPrefix(b, []byte("hsqs")):
		id.kind = "squashfs"
		id.blockSize = int64(binary.LittleEndian.Uint32(b[12:]))
	case string(b[4086:4096]) == "SWAPSPACE2":
		id.kind = "swap"
		id.uuid = formatUUID(b[1036:1052])
		id.label = cString(b[1052:1068])
	default:
		return identity{}, false, nil
	}
	return id, true, nil
}

// extKind tells the ext family apart as blkid does: a journal makes ext3, and
// any feature that ext3 does not know makes ext4.
func extKind(super []byte) string {
	compat := binary.LittleEndian.Uint32(super[92:])
	incompat := binary.LittleEndian.Uint32(super[96:])
	rocompat := binary.LittleEndian.Uint32(super[100:])
	const (
		hasJournal   = 0x4
		ext3Incompat = 0x2 | 0x4 | 0x10 // filetype, recover, meta_bg
		ext3ROCompat = 0x1 | 0x2 | 0x4  // sparse_super, large_file, btree_dir
		journalDev   = 0x8
	)
	switch {
	case incompat&journalDev != 0:
		return "jbd"
	case incompat&^ext3Incompat != 0 || rocompat&^ext3ROCompat != 0:
		return "ext4"
	case compat&hasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

func formatUUID(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// cString is the text up to the first NUL.
func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
