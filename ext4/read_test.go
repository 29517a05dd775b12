package ext4

import (
	"testing"
)

// Trees that mke2fs -d and the host's kernel wrote are read as they were.
func TestReadWhatOthersWrote(t *testing.T) {
	tree := t.TempDir()
	makeTree(t, tree)
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			image := makeImage(t, 96<<20, f.args...)
			m, umount := mount(t, image, "")
			tool(t, "cp", "-a", tree+"/.", m)
			want := hostTree(t, m)
			umount()
			fs := openFS(t, image, Options{ReadOnly: true, NoWrite: true})
			sameTrees(t, "written by the kernel", engineTree(t, fs), want)
			fsck(t, image)
		})
	}
	t.Run("mke2fs -d", func(t *testing.T) {
		image := makeImage(t, 96<<20, "-t", "ext4", "-d", tree)
		fs := openFS(t, image, Options{ReadOnly: true, NoWrite: true})
		got := engineTree(t, fs)
		if len(got) < 3000 {
			t.Fatalf("%d entries", len(got))
		}
	})
}
