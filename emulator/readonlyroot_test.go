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

// TestErrorsRemountReadOnly holds what a guest sees when a damaged filesystem turns
// read-only under it: as on a real kernel the mount stays rw and an option tells.
func TestErrorsRemountReadOnly(t *testing.T) {
	img := image(t)
	oracle.Run(t, "debugfs", "-w", "-R", "mkdir /bad", img)
	oracle.Run(t, "debugfs", "-w", "-R", "sif /bad block[0] 0", img)
	for _, flags := range []string{"errors=remount-ro", "errors=remount-ro,discard"} {
		out, status := boot(t, "ubd0="+img, "rw", "rootflags="+flags, "ls:/bad", "write:/x,text", "mount:proc,/proc,proc", "cat:/proc/mounts")
		if status != 0 {
			t.Errorf("exit status %d", status)
		}
		want(t, out, "Remounting filesystem read-only", "guest: /x,text: open /x: read-only file system", ",emergency_ro 0 0")
	}
}
