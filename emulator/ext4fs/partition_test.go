package ext4fs_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// Files on a partition are mapped from the image as those of a whole disk are.
func TestFilesOfAPartitionAreMapped(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "parted.img")
	oracle.Run(t, "truncate", "-s", "210M", disk)
	cmd := exec.Command(oracle.Tool(t, "sfdisk"), "-q", disk)
	cmd.Stdin = strings.NewReader("label: gpt\n2 : start=4096,size=200M\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	oracle.Run(t, "dd", "if="+newImage(t, "200M"), "of="+disk, "bs=1M", "seek=2", "conv=notrunc,sparse", "status=none")
	m := hold(t, disk, 16, "root=/dev/ubda2")
	mapped(t, m, disk, 16, false)
	for _, r := range regions(t, m.PID(), disk) {
		if strings.Contains(r.perms, "w") {
			t.Errorf("a mapping of the image is writable: %+v", r)
		}
	}
}
