package ext4fs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestPosix runs go-fuse's tests of what POSIX demands of a filesystem in the guest.
func TestPosix(t *testing.T) {
	image := imageWith(t, "200M", func(tree string) {
		cmd := exec.Command("go", "build", "-o", filepath.Join(tree, "posix"), "./emulator/ext4fs/internal/posix")
		cmd.Dir = oracle.Root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build posix: %v\n%s", err, out)
		}
	})
	out := ours(t, t.TempDir()).run(t, 2*time.Minute, image, nil, "exec", "/t", "/posix", "-test.v")
	// A value of 64 KiB needs the feature ea_inode, without which a real kernel's ext4
	// leaves that test out too.
	passed, skipped := strings.Count(out, "--- PASS: "), strings.Count(out, "--- SKIP: ")
	if passed < 30 || skipped > strings.Count(out, "--- SKIP: XAttrLarge ") {
		t.Errorf("%d tests passed, %d were left out:\n%s", passed, skipped, out)
	}
	oracle.Fsck(t, image)
}
