package ext4

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/ext4/format"
)

// inlineTree is a directory that mke2fs turns into inline files and directories.
func inlineTree(t testing.TB) string {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "inline-file"), bytes.Repeat([]byte("i"), 90), 0o644))
	check(t, os.Mkdir(filepath.Join(dir, "inline-dir"), 0o755))
	for i := range 4 {
		check(t, os.WriteFile(filepath.Join(dir, "inline-dir", fmt.Sprint("f", i)), []byte("x"), 0o644))
	}
	return dir
}

// addBitmaps adds both bitmaps of every group, which descriptors have the checksums and
// counts of.
func (v *victim) addBitmaps(fs *FS) {
	bs := int64(fs.bs)
	for g := range *fs.groups.Load() {
		d := fs.group(uint32(g)).desc
		at := int64(fs.descBlock(0))*bs + int64(g*fs.descSize)
		describe := func(change func(d *format.GroupDesc)) func(*memory, []byte) {
			return func(m *memory, _ []byte) {
				raw := make([]byte, fs.descSize)
				must(m.ReadAt(raw, at))
				var d format.GroupDesc
				_ = d.Decode(raw)
				change(&d)
				_ = d.Encode(raw)
				if fs.groupCsum {
					le.PutUint16(raw[0x1E:], fs.descSum(uint32(g), raw))
				}
				must(m.WriteAt(raw, at))
			}
		}
		none := func([]byte) {}
		v.at["bitmap"] = append(v.at["bitmap"],
			place2{int64(d.BlockBitmap) * bs, bs, none, func(m *memory, b []byte) {
				describe(func(d *format.GroupDesc) {
					d.FreeBlocks = fs.countFree(uint32(g), b)
					d.BlockBitmapCsum = fs.trimSum(format.BitmapChecksum(fs.seed, b[:fs.bpg/8]))
				})(m, b)
			}},
			place2{int64(d.InodeBitmap) * bs, bs, none, func(m *memory, b []byte) {
				describe(func(d *format.GroupDesc) {
					d.FreeInodes = 0
					for i := range fs.ipg {
						d.FreeInodes += uint32(^b[i/8] >> (i % 8) & 1)
					}
					d.InodeBitmapCsum = fs.trimSum(format.BitmapChecksum(fs.seed, b[:(fs.ipg+7)/8]))
				})(m, b)
			}})
	}
}

// addLog adds the journal's superblock and the blocks of its log that are no copies.
func (v *victim) addLog(t testing.TB, fs *FS) {
	j, bs := fs.jnl, int64(fs.bs)
	add := func(kind string, i uint32, fix func(b []byte)) {
		v.at[kind] = append(v.at[kind], place2{int64(j.home(i)) * bs, bs, func(b []byte) {
			if j.csum {
				fix(b)
			}
		}, nil})
	}
	add("log super", 0, func(b []byte) { putBE32(b[0xFC:], format.JournalSuperblockChecksum(b)) })
	tail := func(b []byte) { putBE32(b[len(b)-format.JournalTailSize:], format.JournalTailChecksum(j.seed, b)) }
	b := make([]byte, bs)
	for i := j.first; i < j.head; i++ {
		check(t, j.read(i, b))
		var h format.JournalHeader
		_ = h.Decode(b)
		if h.Magic != format.JournalMagic {
			continue
		}
		switch h.Type {
		case format.JournalDescriptor:
			add("log descriptor", i, tail)
		case format.JournalRevoke:
			add("log revoke", i, tail)
		case format.JournalCommit:
			add("log commit", i, func(b []byte) { putBE32(b[format.CommitChecksum:], format.JournalCommitChecksum(j.seed, b)) })
		}
	}
}

// addOrphanFile adds the blocks of the orphan file, which count when the superblock says
// that it holds some.
func (v *victim) addOrphanFile(fs *FS) {
	n := must(fs.igetSpecial(fs.sb.OrphanFileInum))
	defer n.unref()
	for i := range n.d.Size >> fs.bsBits {
		m := must(n.mapBlock(i))
		nr, seed := m.disk, n.iseed
		v.at["orphans"] = append(v.at["orphans"], place2{int64(nr) << fs.bsBits, int64(fs.bs), func(b []byte) {
			le.PutUint32(b[len(b)-4:], format.OrphanBlockChecksum(seed, nr, b))
		}, func(d *memory, _ []byte) {
			raw := make([]byte, format.SuperblockSize)
			must(d.ReadAt(raw, format.SuperblockOffset))
			var s format.Superblock
			_ = s.Decode(raw)
			s.FeatureRoCompat |= format.RoOrphanPresent
			_ = s.Encode(raw)
			must(d.WriteAt(raw, format.SuperblockOffset))
		}})
	}
}
