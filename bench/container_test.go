package bench

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkCreateContainer makes an image of the layers of a container, a Debian tree
// (some 200 MB) and two that change a part of it, and does the same with tar -x of the
// layers, whiteouts left out, and mkfs.ext4 -d.
func BenchmarkCreateContainer(b *testing.B) {
	oracle.NeedsRoot(b)
	layers := containerLayers(b)
	for _, packed := range []struct{ how, ext string }{{"gzip", ".gz"}, {"zstd", ".zst"}, {"", ""}} {
		layout, files := containerLayout(b, layers, packed.how, packed.ext)
		compareContainer(b, packed.how, layout, files)
	}
}

// containerLayers makes three layers as plain archives.
func containerLayers(b *testing.B) []string {
	b.Helper()
	dir := b.TempDir()
	script := `cd "$1"; mkdir tree one two
tar -C tree --xattrs --numeric-owner -xpf "$2"
tar -C tree --xattrs --numeric-owner --sort=name -cf 1.tar .
cp -a --parents tree/usr/bin one; mkdir one/tree/etc; touch one/tree/etc/.wh.motd; tar -C one/tree --numeric-owner -cf 2.tar usr/bin etc/.wh.motd
cp -a --parents tree/usr/sbin two; tar -C two/tree --numeric-owner -cf 3.tar usr/sbin
rm -rf tree one two`
	oracle.Run(b, "sh", "-ec", script, "sh", dir, debianTar(b))
	return []string{filepath.Join(dir, "1.tar"), filepath.Join(dir, "2.tar"), filepath.Join(dir, "3.tar")}
}

// containerLayout packs layers and makes a layout of them. The packed files are the
// layout's blobs.
func containerLayout(b *testing.B, layers []string, tool, ext string) (layout string, files []string) {
	b.Helper()
	layout = b.TempDir()
	blobs := filepath.Join(layout, "blobs/sha256")
	put := func(kind types.MediaType, data []byte) v1.Descriptor {
		hex := fmt.Sprintf("%x", sha256.Sum256(data))
		if err := os.WriteFile(filepath.Join(blobs, hex), data, 0o644); err != nil {
			b.Fatal(err)
		}
		return v1.Descriptor{MediaType: kind, Size: int64(len(data)), Digest: v1.Hash{Algorithm: "sha256", Hex: hex}}
	}
	marshal := func(kind types.MediaType, v any) v1.Descriptor {
		data, err := json.Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		return put(kind, data)
	}
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		b.Fatal(err)
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(read(l)))})
		if tool != "" {
			oracle.Run(b, tool, "-qkf", l)
		}
		d := put(map[string]types.MediaType{"": types.OCIUncompressedLayer, "gzip": types.OCILayer, "zstd": types.OCILayerZStd}[tool], read(l+ext))
		m.Layers = append(m.Layers, d)
		files = append(files, filepath.Join(blobs, d.Digest.Hex))
	}
	m.Config = marshal(types.OCIConfigJSON, config)
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{marshal(types.OCIManifestSchema1, m)}})
	if err == nil {
		err = os.WriteFile(filepath.Join(layout, "index.json"), index, 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
	return layout, files
}

// compareContainer does it in both ways, in turns, and prints the best of each.
func compareContainer(b *testing.B, how, layout string, files []string) {
	b.Helper()
	const wanted = 0.7
	umlimg, dir := guest.Binary(b, "umlimg"), b.TempDir()
	image, tree := filepath.Join(dir, "disk.img"), filepath.Join(dir, "tree")
	script := `mkdir "$1"; tree=$1 image=$2 how=$3; shift 3
for layer; do tar ${how:+--use-compress-program=$how} -C "$tree" --xattrs --numeric-owner -xpf "$layer" --exclude='.wh.*'; done
mkfs.ext4 -q -d "$tree" "$image" 16G`
	ours, theirs := never, never
	for range max(b.N, 5) {
		theirs.keepBest(run(b, exec.Command("sh", append([]string{"-ec", script, "sh", tree, image, how}, files...)...)))
		if err := os.RemoveAll(tree); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(image); err != nil {
			b.Fatal(err)
		}
		ours.keepBest(run(b, exec.Command(umlimg, "create", "--as-is", "--from", "oci:"+layout, "--platform", "linux/amd64", "--size", "16G", image)))
		oracle.Fsck(b, image)
		if err := os.Remove(image); err != nil {
			b.Fatal(err)
		}
	}
	if how == "" {
		how = "nothing"
	}
	fmt.Printf("create of container layers packed by %s: %.3f s (processor %.3f), tar -x and mkfs.ext4 -d %.3f s (%.3f), ratio %.2f (processor %.2f) (wanted: at most %.2f)\n",
		how, ours.wall, ours.cpu, theirs.wall, theirs.cpu, ours.wall/theirs.wall, ours.cpu/theirs.cpu, wanted)
	b.ReportMetric(ours.wall/theirs.wall, "ratio-"+how)
}
