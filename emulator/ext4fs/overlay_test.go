package ext4fs_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestOverlayAsOnARealKernel holds overlays with all layers on ext4 against those of the
// host's kernel: the real UML kernel has them in a module only.
func TestOverlayAsOnARealKernel(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := oracle.Mount(t, newImage(t, "100M"), "")
	cmd := exec.Command(fscheckBinary(t), "overlay", dir+"/t")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("fscheck overlay: %v\n%s", err, out)
	}
	oracle.Unmount(t, dir)
	image := newImage(t, "100M")
	got := ours(t, t.TempDir()).run(t, 2*time.Minute, image, nil, "overlay", "/t")
	sameLines(t, got, strings.TrimSuffix(string(out), "\n"), "linux", "host's kernel")
	oracle.Fsck(t, image)
	wantContent(t, image, "/t/kept/mapped", bytes.Repeat([]byte("stored"), 65536/6+1)[:65536])
	wantContent(t, image, "/t/low/mapped", make([]byte, 65536))
}
