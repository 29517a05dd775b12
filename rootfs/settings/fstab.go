package settings

import (
	"slices"
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// rootLine mounts the first disk of a guest.
const rootLine = "/dev/ubd0 / ext4 discard,errors=remount-ro 0 1"

// unconfigured is what debootstrap leaves in an fstab that nobody has written.
const unconfigured = "# UNCONFIGURED FSTAB"

// Fstab lets /etc/fstab name the first disk as the root file system.
type Fstab struct{}

func (Fstab) String() string { return "fstab" }

// Apply implements Setting.
func (Fstab) Apply(t *tree.Tree) error {
	return edit(t, "/etc/fstab", 0o644, func(old []byte) ([]byte, error) { return setRoot(old), nil })
}

// setRoot puts our line in the place of those that mount the root, or before the first
// line that mounts anything.
func setRoot(old []byte) []byte {
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
	return join(slices.Insert(out, at, rootLine))
}
