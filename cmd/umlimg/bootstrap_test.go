package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/inside"
)

// Work inside a machine changes the image and leaves nothing else in it; its status and
// what it printed come back.
func TestInside(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	must(t, "create", "--as-is", "--umlbox", guest.Binary(t, "umlbox"), "--size", "64M", image)
	script := filepath.Join(dir, "work")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"from $(pwd) as $(whoami), $(mount | grep -c /proc) proc\"\n[ -e /fail ] && exit 3\necho done >/fail\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", script, image+":/work")
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out strings.Builder
	m := inside.Machine{Linux: guest.Binary(t, "linux"), Umlbox: guest.Binary(t, "umlbox"), Disk: f, Memory: 128, Output: &out}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	if err := m.Run(context.Background(), "/work"); err != nil || !strings.Contains(out.String(), "from / as root, 1 proc") {
		t.Fatalf("%v\n%s", err, out.String())
	}
	oracle.Fsck(t, image)
	if status, text, _ := call("cat", image+":/fail"); status != 0 || text != "done\n" {
		t.Errorf("it left %q", text)
	}
	var failed *inside.StatusError
	if err := m.Run(context.Background(), "/work"); !errors.As(err, &failed) || failed.Status != 3 || !strings.Contains(err.Error(), "it ended with status 3, after: ") {
		t.Errorf("the second time: %v", err)
	}
	if err := m.Run(context.Background(), "/nothing"); !errors.As(err, &failed) || failed.Status != 127 {
		t.Errorf("a program that is not there: %v", err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// The real thing beside debootstrap: the same packages, in the same versions, all
// configured and whole. It needs the archive that apt of this machine uses.
func TestBookwormAsDebootstrap(t *testing.T) {
	if !oracle.Nightly() {
		return // what it is made of is held on an archive of its own in rootfs/debian, and by TestInside
	}
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	image, tree := filepath.Join(dir, "disk.img"), filepath.Join(dir, "tree")
	must(t, "create", "--suite", "bookworm", "--umlbox", guest.Binary(t, "umlbox"), "--linux", guest.Binary(t, "linux"), "--as-is", "--size", "4G", image)
	oracle.Fsck(t, image)
	oracle.Run(t, "debootstrap", "--variant=minbase", "bookworm", tree)
	mounted := oracle.Mount(t, image, "ro")
	list := func(root string) string {
		return oracle.Run(t, "sh", "-ec", `dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${db:Status-Abbrev} ${binary:Package} ${Version}\n'`, "sh", root)
	}
	if have, want := list(mounted), list(tree); have != want {
		t.Errorf("the packages are\n%s\nwant\n%s", have, want)
	}
	for _, query := range []string{"--audit", "-V"} {
		if out := oracle.Run(t, "sh", "-c", `dpkg --root="$1" $2; true`, "sh", mounted, query); strings.TrimSpace(out) != "" {
			t.Errorf("dpkg %s says %s", query, out)
		}
	}
}
