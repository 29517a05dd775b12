package mkfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
	"github.com/umlkit/umlkit/internal/oracle"
)

// fsckQuota is oracle.Fsck, and e2fsck agrees with the quota files; it only warns where it does not.
func fsckQuota(t testing.TB, path string) {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "e2fsck"), "-fn", path).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("QUOTA")) {
		t.Fatalf("e2fsck -fn: %v\n%.3000s", err, out)
	}
}

// sameOwnFiles compares the inodes of the filesystem's own files, and the content of the quota
// files, with those of mke2fs. Only their places may differ.
func sameOwnFiles(t *testing.T, ours, theirs string, lines map[string]string) {
	t.Helper()
	for _, name := range []string{"User quota inode", "Group quota inode", "Project quota inode", "Orphan file inode"} {
		ino := lines[name]
		if ino == "" {
			continue
		}
		var stats, contents [2]string
		for i, image := range []string{ours, theirs} {
			for _, l := range strings.Split(oracle.Run(t, "debugfs", "-R", "stat <"+ino+">", image), "\n") {
				for _, start := range []string{"Inode:", "Generation:", "User:", "Links:"} {
					if strings.HasPrefix(l, start) {
						stats[i] += l + "\n"
					}
				}
			}
			to := filepath.Join(t.TempDir(), "content")
			oracle.Run(t, "debugfs", "-R", "dump <"+ino+"> "+to, image)
			data, err := os.ReadFile(to)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case name == "Orphan file inode": // the checksum is of the place, too
				contents[i] = string(data[len(data)-8 : len(data)-4])
			case lines["Block size"] != "1024": // with such blocks lost+found differs, and what root uses
				contents[i] = string(data)
			}
		}
		if stats[0] != stats[1] || stats[0] == "" {
			t.Errorf("%s:\n%smke2fs has\n%s", name, stats[0], stats[1])
		}
		if contents[0] != contents[1] {
			t.Errorf("%s: content\n%q\nmke2fs has\n%q", name, strings.ReplaceAll(contents[0], "\x00", ""), strings.ReplaceAll(contents[1], "\x00", ""))
		}
	}
}

// TestQuotaUsage builds trees of many owners, on devices with no room to spare: e2fsck counts what
// the quota files say, and debugfs finds every owner there.
func TestQuotaUsage(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 1))
	for _, o := range []Options{
		{Features: []string{"quota", "project", "orphan_file"}},
		{BlockSize: 1024, Features: []string{"quota"}},
		{Type: "ext3", BlockSize: 2048, Features: []string{"quota"}},
	} {
		for _, owners := range []int{13, 14, 15, 500} { // 14 fill a block
			t.Run(fmt.Sprintf("%d%v/%d", o.BlockSize, o.Features, owners), func(t *testing.T) {
				ids := []uint32{0}
				for len(ids) < owners {
					ids = append(ids, []uint32{uint32(len(ids)), rng.Uint32(), rng.Uint32() &^ 0xFFFFFF, 1000<<8 + uint32(len(ids))}[len(ids)%4])
				}
				m := &model{}
				for i, id := range ids {
					h := Header{Mode: format.ModeRegular | 0o644, UID: id, GID: ids[len(ids)-1-i]}
					if o.Type == "" && o.BlockSize == 0 {
						h.Project = ids[i/2]
					}
					switch i % 5 {
					case 0:
						h.Size = int64(rng.IntN(100000))
					case 1:
						h.Xattrs = map[string][]byte{"user.a": bytes.Repeat([]byte("x"), 600)} // in a block that others share
					case 2:
						h.Mode, h.Target = format.ModeSymlink|0o777, strings.Repeat("t", 1+rng.IntN(200))
					case 3:
						h.Mode = format.ModeDir | 0o755
					case 4:
						h.Mode = format.ModeFIFO | 0o600
					}
					m.add(item{path: fmt.Sprint("f", i), data: noise(uint64(i)), h: h})
				}
				plan, err := NewBuilder(nil, o)
				if err != nil {
					t.Fatal(err)
				}
				m.describe(t, plan)
				need, err := plan.Need()
				if err != nil {
					t.Fatal(err)
				}
				dev, path := newFile(t, need)
				b, err := NewBuilder(dev, o)
				if err != nil {
					t.Fatal(err)
				}
				nodes := m.describe(t, b)
				if err := b.Fits(); err != nil {
					t.Fatal(err)
				}
				m.fillIn(t, b, nodes)
				gone, err := b.Add(b.Root(), "gone", Header{Mode: format.ModeRegular, UID: 77777}) // an owner of nothing
				if err != nil || gone.Number() == 0 {
					t.Fatal(err)
				}
				if err := errors.Join(b.Remove(b.Root(), "gone"), b.Close()); err != nil {
					t.Fatal(err)
				}
				fsckQuota(t, path)
				list := strings.Fields(oracle.Run(t, "debugfs", "-R", "lq user", path))
				listed := map[string]bool{}
				for _, word := range list {
					listed[word] = true
				}
				for _, id := range ids {
					if !listed[fmt.Sprint(id)] {
						t.Errorf("no user %d in %v", id, list)
					}
				}
				if listed["77777"] {
					t.Error("a user of no inodes is listed")
				}
			})
		}
	}
}

// TestRealUMLKeepsQuota has the real kernel change a filesystem with quota files, which it keeps
// right: it found the entries that we made, and room for others.
func TestRealUMLKeepsQuota(t *testing.T) {
	dev, path := newFile(t, 64<<20)
	o := fixed()
	o.Features = []string{"quota", "project", "orphan_file"}
	b, err := NewBuilder(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(100) {
		if _, err := b.Add(b.Root(), fmt.Sprint("owner", i), Header{Mode: format.ModeDir | 0o755, UID: i << 12, GID: i, Project: i / 9}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	fsckQuota(t, path)

	g := newGuestTree(t, 64<<20, fixed(), "bb() { /bin/busybox \"$@\"; }\n"+
		"bb insmod /quota_tree.ko && bb insmod /quota_v2.ko && bb mount -t ext4 /dev/ubdb /mnt && echo quota is on\n"+
		"for i in 1 2 3 4 5 6 7 8 9; do bb cp /bin/busybox /mnt/owner$i/new && bb chown $i$i$i:70000$i /mnt/owner$i/new && bb rmdir /mnt/owner5$i; done\n"+
		"bb umount /mnt && echo all is changed\n")
	for _, name := range []string{"quota_tree.ko", "quota_v2.ko"} {
		var found []string
		for _, lib := range []string{"x/usr/lib", "../lib"} { // beside the cached kernel, or an installed one
			m, _ := filepath.Glob(filepath.Join(filepath.Dir(oracle.RealUML(t)), lib, "uml/modules/*/kernel/fs/quota", name))
			found = append(found, m...)
		}
		if len(found) == 0 {
			t.Fatalf("the real kernel %s has no %s", oracle.RealUML(t), name)
		}
		content, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		g.put("/"+name, content)
	}
	g.dir("/mnt")
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g.args = []string{"ubd1=" + path}
	g.boot("quota is on", "all is changed")
	fsckQuota(t, path)
	if list := oracle.Run(t, "debugfs", "-R", "lq group", path); !strings.Contains(list, "700009") {
		t.Errorf("no group 700009 in\n%s", list)
	}
}
