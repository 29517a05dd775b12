package ext4fs_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestToolsAsOnARealKernel runs Debian's tools for flags, places, access lists,
// attributes, capabilities and space in the guest and on a real kernel.
func TestToolsAsOnARealKernel(t *testing.T) {
	run := func(m machine) string {
		image := imageWith(t, "300M", func(tree string) {
			for _, name := range strings.Fields(`sh sed awk tr head wc cat cp mv rm ln mkdir touch chmod chown truncate dd du df stat sync
				chattr lsattr filefrag fallocate setfacl getfacl setfattr getfattr setcap getcap capsh setpriv grep sort
				ip ping perl mount`) {
				addProgram(t, tree, name)
			}
			oracle.Run(t, "cp", filepath.Join("testdata", "tools.sh"), tree)
		})
		out := m.run(t, 3*time.Minute, image, nil, "exec", "/t/tools", "/bin/sh", "/tools.sh", "/t/tools")
		oracle.Fsck(t, image)
		return out
	}
	sameLines(t, run(ours(t, t.TempDir())), run(realKernel(t, t.TempDir())), "linux", "real kernel")
}
