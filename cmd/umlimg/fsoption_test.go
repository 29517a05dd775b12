package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// Every option of the file system, the volume's name and its UUID get from the command
// line to what dumpe2fs and debugfs say of the image.
func TestFileSystemOptions(t *testing.T) {
	tree, _ := sources(t)
	tested := map[string]bool{}
	for _, c := range []struct {
		args []string
		want []string // lines of dumpe2fs, "name: value", or of debugfs's stat of the root
	}{
		{[]string{"type=ext3", "block-size=2048", "inode-size=128", "inode-ratio=8K"},
			[]string{"Filesystem features: has_journal ext_attr resize_inode dir_index filetype sparse_super large_file", "Block size: 2048", "Inode size: 128", "Inode count: 8192"}},
		{[]string{"type=ext2", "inodes=5000", "reserved=12.5", "hash-seed=01234567-89ab-4def-8123-456789abcdef"},
			[]string{"Filesystem features: ext_attr resize_inode dir_index filetype sparse_super large_file", "Inode count: 5008", "Reserved block count: 2048", "Directory Hash Seed: 01234567-89ab-4def-8123-456789abcdef"}},
		{[]string{"reserved=0", "journal=6M", "errors=remount-ro", "mount-options=discard,journal_data", "last-mounted=/srv"},
			[]string{"Reserved block count: 0", "Total journal size: 6144k", "Errors behavior: Remount read-only", "Default mount options: journal_data user_xattr acl discard", "Last mounted on: /srv"}},
		{[]string{"stride=16", "stripe-width=64", "resize-limit=20G", "root-owner=7:8"},
			[]string{"RAID stride: 16", "RAID stripe width: 64", "Reserved GDT blocks: 2", "User: 7 Group: 8"}},
		{[]string{"features=^huge_file,project", "features=large_dir", "lazy-tables=yes"},
			[]string{"Filesystem features: has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg large_dir sparse_super large_file dir_nlink extra_isize metadata_csum project", "lazy"}},
		{[]string{"lazy-tables=no"}, []string{"zeroed"}},
	} {
		image := filepath.Join(t.TempDir(), "disk.img")
		args := []string{"create", "--from", tree, "--as-is", "--size", "64M", "--label", "by name", "--uuid", "fedcba98-7654-4321-8fed-cba987654321"}
		for _, o := range c.args {
			args = append(args, "--fs-option", o)
			name, _, _ := strings.Cut(o, "=")
			tested[name] = true
		}
		must(t, append(args, image)...)
		oracle.Fsck(t, image)
		dump := oracle.Run(t, "dumpe2fs", image)
		lines := map[string]bool{"zeroed": strings.Contains(dump, "ITABLE_ZEROED"), "lazy": !strings.Contains(dump, "ITABLE_ZEROED")}
		for _, l := range strings.Split(dump+oracle.Run(t, "debugfs", "-R", "stat /", image), "\n") {
			l = strings.Join(strings.Fields(l), " ")
			lines[l] = true
			owner, _, _ := strings.Cut(l, " Project:")
			lines[owner] = true
		}
		for _, want := range append(c.want, "Filesystem volume name: by name", "Filesystem UUID: fedcba98-7654-4321-8fed-cba987654321") {
			if !lines[want] {
				t.Errorf("%v: want %q in\n%s", c.args, want, dump)
			}
		}
	}
	for _, f := range fsOptions {
		if !tested[f.name] {
			t.Errorf("the option %s is not tested", f.name)
		}
	}
}
