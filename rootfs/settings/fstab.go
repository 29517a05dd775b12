package settings

import (
	"slices"
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// firstDisk is what mounts as root when nothing else is said.
const firstDisk = "/dev/ubd0"

// rootLine mounts the root.
func rootLine(device string) string { return device + " / ext4 discard,errors=remount-ro 0 1" }

// unconfigured is what debootstrap leaves in an fstab that nobody has written.
const unconfigured = "# UNCONFIGURED FSTAB"

// Fstab lets /etc/fstab name the guest's disk as the root file system. A kernel that
// knows the disk only as /dev/ubda gets the other name as it boots: without it Debian's
// checkfs looks for a disk that is not there and stops the boot.
type Fstab struct {
	// Device is the root file system's, "" for the first disk. A partition's name every
	// kernel knows.
	Device string
}

func (Fstab) String() string { return "fstab" }

// Apply implements Setting.
func (f Fstab) Apply(t *tree.Tree) error {
	device := f.Device
	if device == "" {
		device = firstDisk
	}
	err := edit(t, "/etc/fstab", 0o644, func(old []byte) ([]byte, error) { return setRoot(old, device), nil })
	if err != nil || device != firstDisk {
		return err
	}
	if t.Exists("/etc/inittab") {
		err := edit(t, "/etc/inittab", 0o644, func(old []byte) ([]byte, error) { return nameDisk(old), nil })
		if err != nil {
			return err
		}
	}
	if !t.Exists("/usr/lib/systemd/systemd") && !t.Exists("/lib/systemd/systemd") {
		return nil
	}
	return t.WriteFile("/etc/tmpfiles.d/ubd.conf", []byte("L /dev/ubd0 - - - - ubda\n"), 0o644)
}

// nameLine is the process of the line that names the disk.
const nameLine = "::sysinit:/bin/sh -c 'test -e /dev/ubd0 || ln -s ubda /dev/ubd0'"

// nameDisk lets init name the disk before anything else.
func nameDisk(old []byte) []byte {
	all := lines(old)
	taken := map[string]bool{}
	at := -1
	for i, line := range all {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		parts := strings.SplitN(line, ":", 4)
		if len(parts) < 4 {
			continue
		}
		if strings.HasSuffix(line, nameLine) {
			return old
		}
		taken[parts[0]] = true
		if at < 0 && parts[2] == "sysinit" && parts[0] != "" {
			at = i
		}
	}
	if at < 0 { // busybox's ids are terminals, and its guests check no disks
		return old
	}
	return join(slices.Insert(all, at, withID("ub"+nameLine, taken)))
}

// setRoot puts our line in the place of those that mount the root, or before the first
// line that mounts anything.
func setRoot(old []byte, device string) []byte {
	var out []string
	at, first := -1, -1
	for _, line := range lines(old) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, unconfigured):
			continue
		case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
		case len(fields) > 1 && fields[1] == "/":
			if at < 0 {
				at = len(out)
			}
			continue
		case first < 0:
			first = len(out)
		}
		out = append(out, line)
	}
	if at < 0 {
		at = first
	}
	if at < 0 {
		at = len(out)
	}
	return join(slices.Insert(out, at, rootLine(device)))
}
