package emulator_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// A disk that can only be read boots read-only, also when rw was asked for, and stays
// as it is.
func TestWriteProtectedRoot(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	oracle.Run(t, guest.Binary(t, "umlimg"), "create", "--size", "32M", "--umlbox", guest.Binary(t, "umlbox"), image)
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	out, status := guest.Output(t, 30*time.Second, guest.Binary(t, "linux"), "uml_dir="+dir, "mem=128M", "con0=null,fd:1", "ubd0r="+image, "rw",
		"init=/bin/sh", "--", "-c", "touch /new || echo refused; poweroff -f")
	if status != 0 || !strings.Contains(out, "ubda is write-protected, mounting it read-only") || !strings.Contains(out, "refused") {
		t.Errorf("status %d\n%s", status, out)
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image changed (%v)", err)
	}
}
