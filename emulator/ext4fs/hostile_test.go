package ext4fs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

const hostileSize = 4 << 20

// hostileForms are mke2fs's options of the images that are damaged: with checksums and
// without, so that damage is not always met by one.
var hostileForms = [][]string{
	{"-t", "ext4", "-O", "metadata_csum"},
	{"-t", "ext4", "-O", "^metadata_csum"},
	{"-t", "ext3"},
	{"-t", "ext4", "-I", "256", "-O", "^metadata_csum,inline_data"},
	{"-t", "ext2"},
}

// structure is a part of an image of one kind.
type structure struct {
	kind      string
	off, size int64
}

// hostileImage makes an image with something of everything, clean and as a kernel leaves
// it that lost its power, and says where its structures lie.
func hostileImage(t *testing.T, form []string) (clean, crashed []byte, list []structure) {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	oracle.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-b", "1024"}, form...), image, "4M")...)
	m := oracle.Mount(t, image, "")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.MkdirAll(m+"/dir/sub", 0o755))
	do(os.Mkdir(m+"/small", 0o755))
	do(os.WriteFile(m+"/small/one", []byte("1"), 0o644))
	for i := range 150 {
		do(os.WriteFile(fmt.Sprintf("%s/dir/name-%d-%s", m, i, strings.Repeat("x", i%40)), []byte("x"), 0o644))
	}
	do(os.WriteFile(m+"/file", bytes.Repeat([]byte("data"), 5000), 0o644))
	oracle.Run(t, "setfattr", "-n", "user.long", "-v", strings.Repeat("v", 500), m+"/file")
	do(os.Symlink(strings.Repeat("t", 200), m+"/slow"))
	f, err := os.Create(m + "/extents")
	do(err)
	for i := range int64(120) {
		_, err := f.WriteAt([]byte("extent"), i*2048)
		do(err)
	}
	do(f.Sync())
	do(f.Close())
	oracle.Run(t, "sync", "-f", m)
	crashed, err = os.ReadFile(image) // mounted: there is a log to replay
	do(err)
	oracle.Unmount(t, m)
	clean, err = os.ReadFile(image)
	do(err)

	list = []structure{{"super", 1024, 1024}, {"descriptors", 2048, 256}}
	for _, l := range regexp.MustCompile(`(Block bitmap|Inode bitmap|Inode table) at (\d+)`).FindAllStringSubmatch(oracle.Run(t, "dumpe2fs", image), -1) {
		block, _ := strconv.ParseInt(l[2], 10, 64)
		size := int64(1024)
		if l[1] == "Inode table" {
			size = 8 * 1024 // the inodes in use
		}
		list = append(list, structure{l[1], block << 10, size})
	}
	for _, f := range [][2]string{{"directory", "/dir"}, {"root", "/"}, {"tree", "/extents"}, {"link", "/slow"}, {"journal", "<8>"}} {
		kind := f[0]
		if kind == "journal" && form[1] == "ext2" {
			continue
		}
		blocks := strings.Fields(oracle.Run(t, "debugfs", "-R", "blocks "+f[1], image))
		for i, b := range blocks {
			if block, err := strconv.ParseInt(b, 10, 64); err == nil && i < 30 {
				list = append(list, structure{kind, block << 10, 1024})
			}
		}
	}
	return clean, crashed, list
}

// TestHostileDisks mounts damaged images in one machine, one after another, and uses
// them. Mounting or using each gives errors or not; the machine lives on.
func TestHostileDisks(t *testing.T) {
	count, seed := 20, uint64(1)
	if os.Getenv("UMLKIT_NIGHTLY") != "" {
		count, seed = 400, uint64(time.Now().UnixNano())%1e9
	}
	r := rand.New(rand.NewPCG(seed, 1))
	store := filepath.Join(t.TempDir(), "store.img")
	scratch := filepath.Join(t.TempDir(), "scratch.img")
	out, err := os.Create(store)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := os.WriteFile(scratch, make([]byte, hostileSize), 0o644); err != nil {
		t.Fatal(err)
	}
	var bases, logs [][]byte
	var regions [][]structure
	for _, f := range hostileForms {
		clean, crashed, list := hostileImage(t, f)
		bases, logs, regions = append(bases, clean), append(logs, crashed), append(regions, list)
	}
	var what []string
	for i := range count {
		k := i % len(bases)
		data := bytes.Clone(bases[k])
		text := strings.Join(hostileForms[k], " ") + ":"
		kinds := map[string][]structure{}
		var names []string
		for _, l := range regions[k] {
			if kinds[l.kind] == nil {
				names = append(names, l.kind)
			}
			kinds[l.kind] = append(kinds[l.kind], l)
		}
		kind := names[(2*i/len(bases)+k)%len(names)]
		list := kinds[kind]
		if kind == "journal" { // elsewhere a replay would undo the damage
			data = bytes.Clone(logs[k])
		}
		for range 1 + r.IntN(12) {
			l := list[r.IntN(len(list))]
			at := r.Int64N(l.size)
			if r.IntN(2) == 0 {
				at = r.Int64N(min(l.size, 128)) // the start of a block holds most
			}
			data[l.off+at] ^= byte(1 << r.IntN(8))
			text += fmt.Sprintf(" %s+%d", l.kind, at)
		}
		what = append(what, text)
		if _, err := out.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	got := ours(t, t.TempDir()).run(t, 10*time.Minute, newImage(t, "100M"), []string{"ubd1=" + scratch, "ubd2=" + store},
		"hostile", "/dev/ubdb", "/dev/ubdc", strconv.Itoa(hostileSize))
	refused, damaged := 0, 0
	for i, text := range what {
		line := regexp.MustCompile(fmt.Sprintf(`(?m)^image %d: .*$`, i)).FindString(got)
		switch {
		case line == "":
			t.Errorf("seed %d: nothing is said of %s", seed, text)
		case strings.Contains(line, "not mounted"):
			refused++
		case strings.Contains(line, "needs cleaning") || strings.Contains(line, "input/output"):
			damaged++
		}
		t.Logf("%s\n\t%s", text, line)
	}
	if refused == 0 || damaged == 0 {
		t.Errorf("seed %d: %d refused, %d damaged: the test proves little", seed, refused, damaged)
	}
}
