package mkfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestFormsAgreeWithMke2fs makes filesystems with the options that users of mke2fs know, compares
// what dumpe2fs says of both, and lets the host's kernel read and write ours.
func TestFormsAgreeWithMke2fs(t *testing.T) {
	for _, c := range []struct {
		size int64
		o    Options
		args string
	}{
		{64 << 20, Options{Type: "ext2", BlockSize: 1024, InodeSize: 128}, "-t ext2 -b 1024 -I 128"},
		{64 << 20, Options{Type: "ext2", BlockSize: 2048}, "-t ext2 -b 2048 -I 256"},
		{300 << 20, Options{Type: "ext2"}, "-t ext2 -b 4096"},
		{64 << 20, Options{Type: "ext2", JournalBlocks: 2048}, "-t ext2 -b 4096 -J size=8"},
		{64 << 20, Options{Type: "ext3", BlockSize: 1024}, "-t ext3 -b 1024"},
		{600 << 20, Options{Type: "ext3", InodeSize: 128}, "-t ext3 -b 4096 -I 128"},
		{64 << 20, Options{Type: "ext3", Features: []string{"extent", "uninit_bg", "flex_bg"}}, "-t ext3 -b 4096 -O extent,uninit_bg,flex_bg"},
		{64 << 20, Options{InodeSize: 128, BlockSize: 2048}, "-t ext4 -b 2048 -I 128"},
		{64 << 20, Options{InodeSize: 512, Inodes: 5000}, "-t ext4 -b 4096 -I 512 -N 5000"},
		{1 << 30, Options{InodeRatio: 65536, NoReserve: true}, "-t ext4 -b 4096 -i 65536 -m 0"},
		{1 << 30, Options{ReservedPercent: 12.5, JournalBlocks: 10 << 8}, "-t ext4 -b 4096 -m 12.5 -J size=10"},
		{1 << 30, Options{ResizeLimit: 20 << 30, Stride: 16, StripeWidth: 64}, "-t ext4 -b 4096 -E resize=5242880,stride=16,stripe_width=64"},
		{256 << 20, Options{Type: "ext3", BlockSize: 1024, ResizeLimit: 8 << 30}, "-t ext3 -b 1024 -E resize=8388608"},
		{256 << 20, Options{RootOwner: &Owner{1000, 70000}, LazyTables: true, Errors: "remount-ro"}, "-t ext4 -b 4096 -E root_owner=1000:70000,lazy_itable_init=1 -e remount-ro"},
		{256 << 20, Options{Features: []string{"^resize_inode", "^has_journal", "large_dir", "metadata_csum_seed"}}, "-t ext4 -b 4096 -O ^resize_inode,^has_journal,large_dir,metadata_csum_seed"},
		{300 << 20, Options{BlockSize: 1024, Features: []string{"meta_bg", "^resize_inode"}}, "-t ext4 -b 1024 -O meta_bg,^resize_inode"},
		{700 << 20, Options{Features: []string{"sparse_super2", "^resize_inode"}}, "-t ext4 -b 4096 -O sparse_super2,^resize_inode"},
		{200 << 20, Options{Features: []string{"sparse_super2", "meta_bg", "^resize_inode"}, Type: "ext2"}, "-t ext2 -b 4096 -O sparse_super2,meta_bg,^resize_inode"},
		{64 << 20, Options{Features: []string{"^orphan_file", "^metadata_csum_seed", "^quota", "^fast_commit", "^mmp", "^casefold"}}, // what is off anyway
			"-t ext4 -b 4096 -O ^orphan_file,^metadata_csum_seed,^quota,^fast_commit,^mmp,^casefold"},
		{64 << 20, Options{Features: []string{"orphan_file"}}, "-t ext4 -b 4096 -O orphan_file"},
		{600 << 20, Options{BlockSize: 1024, Features: []string{"orphan_file", "^metadata_csum"}}, "-t ext4 -b 1024 -O orphan_file,^metadata_csum"},
		{2 << 30, Options{Type: "ext3", Features: []string{"orphan_file", "quota"}}, "-t ext3 -b 4096 -O orphan_file,quota"},
		{1 << 20, Options{BlockSize: 1024, Features: []string{"orphan_file", "quota", "fast_commit"}}, "-t ext4 -b 1024 -O orphan_file,quota,fast_commit"}, // too small for a journal
		{64 << 20, Options{Type: "ext2", InodeSize: 128, BlockSize: 2048, Features: []string{"quota"}}, "-t ext2 -b 2048 -I 128 -O quota"},
		{64 << 20, Options{Features: []string{"quota", "project", "orphan_file", "metadata_csum_seed"}}, "-t ext4 -b 4096 -O quota,project,orphan_file,metadata_csum_seed"},
		{64 << 20, Options{Features: []string{"fast_commit", "orphan_file"}}, "-t ext4 -b 4096 -O fast_commit,orphan_file"},
		{64 << 20, Options{Type: "ext3", BlockSize: 1024, JournalBlocks: 10 << 10, Features: []string{"fast_commit"}}, "-t ext3 -b 1024 -J size=10 -O fast_commit"},
		{64 << 20, Options{Features: []string{"none", "filetype"}, BlockSize: 1024, InodeSize: 128}, "-t ext4 -b 1024 -I 128 -O none,filetype"},
	} {
		t.Run(c.args, func(t *testing.T) {
			dev, path := newFile(t, c.size)
			o := c.o
			o.UUID, o.Time = fixed().UUID, fixed().Time
			if err := Format(dev, o); err != nil {
				t.Fatal(err)
			}
			oracle.Fsck(t, path)
			peer := filepath.Join(t.TempDir(), "peer.img")
			if err := os.WriteFile(peer, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(peer, c.size); err != nil {
				t.Fatal(err)
			}
			oracle.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-U", "12345678-9abc-4def-8123-456789abcdef"}, strings.Fields(c.args)...), peer)...)
			ours, theirs := header(t, path), header(t, peer)
			for name, want := range theirs {
				switch name {
				case "Filesystem created", "Last write time", "Last checked", "Lifetime writes", "Directory Hash Seed", "Checksum", "Free blocks":
					continue
				}
				if ours[name] != want {
					t.Errorf("%s: %q, mke2fs has %q", name, ours[name], want)
				}
			}
			for name := range ours {
				if name == "Lifetime writes" { // mke2fs counts them for ext4 only
					continue
				}
				if _, ok := theirs[name]; !ok {
					t.Errorf("%s: %q, mke2fs has none", name, ours[name])
				}
			}
			owner := "User:     0   Group:     0"
			if r := c.o.RootOwner; r != nil {
				owner = fmt.Sprintf("User: %5d   Group: %5d", r.UID, r.GID)
			}
			if got := oracle.Run(t, "debugfs", "-R", "stat /", path); !strings.Contains(got, owner) {
				t.Errorf("want %q in %s", owner, got)
			}
			lazy := strings.Contains(oracle.Run(t, "dumpe2fs", path), "ITABLE_ZEROED")
			if checksums := strings.Contains(ours["Filesystem features"], "metadata_csum") || strings.Contains(ours["Filesystem features"], "uninit_bg"); lazy != (checksums && !c.o.LazyTables) {
				t.Errorf("ITABLE_ZEROED: %v", lazy)
			}
			sameOwnFiles(t, path, peer, theirs)
			if strings.Contains(ours["Filesystem features"], "quota") {
				fsckQuota(t, path)
				return // many hosts' kernels know no quota; a guest of the real kernel writes below
			}
			if os.Geteuid() != 0 {
				return
			}
			dir := oracle.Mount(t, path, "")
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				if err := os.WriteFile(filepath.Join(dir, "d", fmt.Sprint(i)), make([]byte, i*100000), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			oracle.Unmount(t, dir)
			oracle.Fsck(t, path)
		})
	}
}

// TestSixteenTiB makes the largest filesystem that a file on ext4 can hold, and in the nightly run
// one of a block more, on the host's memory filesystem.
func TestSixteenTiB(t *testing.T) {
	type place struct {
		dir  string
		size int64
		want string
	}
	places := []place{{t.TempDir(), 16<<40 - 4096, "4294967295"}}
	if os.Getenv("UMLKIT_NIGHTLY") != "" {
		places = append(places, place{"/dev/shm", 16 << 40, "4294967296"})
	}
	for _, c := range places {
		dir, err := os.MkdirTemp(c.dir, "umlkit-16T-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "disk.img")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(c.size); err != nil {
			t.Fatal(err)
		}
		if err := Format(file{f, c.size}, fixed()); err != nil {
			t.Fatal(err)
		}
		h := header(t, path)
		resize := strings.Contains(h["Filesystem features"], "resize_inode")
		if h["Block count"] != c.want || resize != (c.size < 16<<40) {
			t.Errorf("%d bytes: %s blocks, features %s", c.size, h["Block count"], h["Filesystem features"])
		}
		if used := allocated(t, path); used > 600<<20 {
			t.Errorf("%d bytes take %d", c.size, used)
		}
		if os.Geteuid() != 0 {
			continue
		}
		// e2fsck takes minutes for so many inodes: the kernel is the judge.
		mnt := oracle.Mount(t, path, "noinit_itable")
		if err := os.WriteFile(filepath.Join(mnt, "file"), make([]byte, 1<<20), 0o644); err != nil {
			t.Error(err)
		}
		oracle.Unmount(t, mnt)
		if got := header(t, path)["FS Error count"]; got != "" {
			t.Errorf("%d bytes: the kernel counted %s errors", c.size, got)
		}
	}
	for _, bad := range []struct {
		size int64
		o    Options
		want string
	}{
		{16 << 40, Options{Type: "ext3"}, "add the feature 64bit"},
		{8 << 40, Options{Type: "ext2", BlockSize: 1024}, "use blocks of 4096 bytes"},
		{17 << 40, Options{}, "at most 4294967296 blocks of 4096 bytes"},
		{1 << 30, Options{ResizeLimit: 1 << 29}, "more than the device's 1073741824"},
		{1 << 30, Options{Type: "ext5"}, "ext2, ext3 or ext4"},
		{1 << 30, Options{Stride: 4, StripeWidth: 6}, "a multiple of the stride, 4"},
		{1 << 30, Options{Type: "ext2", LazyTables: true}, "need the feature metadata_csum"},
		{1 << 30, Options{Inodes: 20 << 20}, "at most about"},
		{1 << 30, Options{Features: []string{"meta_bg"}}, "add ^resize_inode"},
	} {
		if _, err := NewBuilder(file{nil, bad.size}, bad.o); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%d bytes, %+v: %v, want %q", bad.size, bad.o, err, bad.want)
		}
	}
}
