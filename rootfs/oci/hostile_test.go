package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/oci"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// raw adds an image whose manifest and configuration a case may have spoilt.
func (l layout) raw(config v1.ConfigFile, layers []v1.Descriptor, spoil func(*v1.Manifest)) v1.Descriptor {
	l.t.Helper()
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: layers, Config: l.json(types.OCIConfigJSON, config)}
	if spoil != nil {
		spoil(&m)
	}
	return l.json(types.OCIManifestSchema1, m)
}

// Layouts that lie, or want more than they may: what is said of each.
func TestHostile(t *testing.T) {
	layer := layerOf(t, entry{name: "a", content: "a"})
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{digest(layer)}}}
	plain := func(l layout) v1.Descriptor { return l.blob(types.OCIUncompressedLayer, layer) }
	// spoilt writes other bytes in the place of a blob.
	spoilt := func(l layout, d v1.Descriptor, data []byte) v1.Descriptor {
		l.write("blobs/sha256/"+d.Digest.Hex, data)
		return d
	}
	for name, c := range map[string]struct {
		make func(l layout) v1.Descriptor
		say  string
	}{
		"no layout": {func(l layout) v1.Descriptor {
			must(t, os.Remove(filepath.Join(l.dir, "oci-layout")))
			return v1.Descriptor{}
		}, "no OCI image layout: it has no file oci-layout"},
		"version": {func(l layout) v1.Descriptor {
			l.write("oci-layout", []byte(`{"imageLayoutVersion": "2.0.0"}`))
			return v1.Descriptor{}
		}, `version "2.0.0"`},
		"digest of a manifest": {func(l layout) v1.Descriptor {
			d := l.raw(config, []v1.Descriptor{plain(l)}, nil)
			data, err := os.ReadFile(filepath.Join(l.dir, "blobs/sha256", d.Digest.Hex))
			must(t, err)
			return spoilt(l, d, bytes.Replace(data, []byte(`"schemaVersion":2`), []byte(`"schemaVersion":3`), 1))
		}, "is damaged: its digest is sha256:"},
		"digest of a configuration": {func(l layout) v1.Descriptor {
			return l.raw(config, []v1.Descriptor{plain(l)}, func(m *v1.Manifest) { m.Config.Digest = spoilt(l, plain(l), make([]byte, m.Config.Size)).Digest })
		}, "is damaged: its digest is sha256:"},
		"digest of a packed layer": {func(l layout) v1.Descriptor {
			packed := gzipped(t, layer)
			d := l.blob(types.OCILayer, packed)
			other := append(gzipped(t, layer[:512]), gzipped(t, layer[512:])...) // unpacks to the same
			d.Size = int64(len(other))
			return l.raw(config, []v1.Descriptor{spoilt(l, d, other)}, nil)
		}, "is damaged: its digest is not that of its name"},
		"digest of a plain layer": {func(l layout) v1.Descriptor {
			return l.raw(config, []v1.Descriptor{spoilt(l, plain(l), layerOf(t, entry{name: "a", content: "b"}))}, nil)
		}, "unpacked, is not what the configuration says"},
		"another layer": {func(l layout) v1.Descriptor {
			return l.raw(config, []v1.Descriptor{l.blob(types.OCILayer, gzipped(t, layerOf(t, entry{name: "b"})))}, nil)
		}, "unpacked, is not what the configuration says: its digest is not " + digest(layer).String()},
		"size": {func(l layout) v1.Descriptor {
			d := plain(l)
			d.Size++
			return l.raw(config, []v1.Descriptor{d}, nil)
		}, "has 2048 bytes, not 2049"},
		"size below 0": {func(l layout) v1.Descriptor {
			d := plain(l)
			d.Size = -1
			return l.raw(config, []v1.Descriptor{d}, nil)
		}, "of -1 bytes"},
		"a layer that is not there": {func(l layout) v1.Descriptor {
			d := plain(l)
			must(t, os.Remove(filepath.Join(l.dir, "blobs/sha256", d.Digest.Hex)))
			return l.raw(config, []v1.Descriptor{d}, nil)
		}, "layer 1 of 1 is not there"},
		"fewer layers": {func(l layout) v1.Descriptor { return l.raw(config, nil, nil) }, "the manifest has 0 layers, the configuration 1"},
		"many layers": {func(l layout) v1.Descriptor {
			all, many := config, []v1.Descriptor{}
			all.RootFS.DiffIDs = nil
			for range 1025 {
				many, all.RootFS.DiffIDs = append(many, plain(l)), append(all.RootFS.DiffIDs, digest(layer))
			}
			return l.raw(all, many, nil)
		}, "1025 layers, the limit is 1024"},
		"a large configuration": {func(l layout) v1.Descriptor {
			big := config
			big.Author = strings.Repeat("x", 5<<20)
			return l.raw(big, []v1.Descriptor{plain(l)}, nil)
		}, "the limit is 4194304"},
		"no JSON": {func(l layout) v1.Descriptor { return l.blob(types.OCIManifestSchema1, []byte("{]")) }, "invalid character"},
		"deep JSON": {func(l layout) v1.Descriptor {
			return l.blob(types.OCIManifestSchema1, []byte(`{"x":`+strings.Repeat("[", 1<<20)))
		}, "exceeded max depth"},
		"deep indexes": {func(l layout) v1.Descriptor {
			d := l.raw(config, []v1.Descriptor{plain(l)}, nil)
			for range 6 {
				d = l.json(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{d}})
			}
			return d
		}, "indexes nest deeper than 4"},
		"many images": {func(l layout) v1.Descriptor {
			one := l.raw(config, []v1.Descriptor{plain(l)}, nil)
			many := make([]v1.Descriptor, 5000)
			for i := range many {
				many[i] = one
			}
			return l.json(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, Manifests: many})
		}, "more than 4096 images"},
		"a chart": {func(l layout) v1.Descriptor {
			return l.raw(config, nil, func(m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" })
		}, `type "application/vnd.cncf.helm.config.v1+json", which is no container image's`},
		"an encrypted layer": {func(l layout) v1.Descriptor {
			d := plain(l)
			d.MediaType += "+encrypted"
			return l.raw(config, []v1.Descriptor{d}, nil)
		}, "which is no layer"},
		"windows": {func(l layout) v1.Descriptor {
			w := config
			w.OS = "windows"
			return l.raw(w, []v1.Descriptor{plain(l)}, nil)
		}, "no image for linux/amd64; there is windows/amd64"},
		"sha512": {func(l layout) v1.Descriptor {
			data := fmt.Sprintf(`{"config":{"mediaType":%q,"digest":"sha512:%0128d","size":1}}`, types.OCIConfigJSON, 0)
			return l.blob(types.OCIManifestSchema1, []byte(data))
		}, "sha256 is supported"},
		"a link out of the layout": {func(l layout) v1.Descriptor {
			d := plain(l)
			name := filepath.Join(l.dir, "blobs/sha256", d.Digest.Hex)
			outside := filepath.Join(t.TempDir(), "layer")
			must(t, os.Rename(name, outside))
			must(t, os.Symlink(outside, name))
			return l.raw(config, []v1.Descriptor{d}, nil)
		}, "path escapes from parent"},
		"a fifo": {func(l layout) v1.Descriptor {
			d := plain(l)
			name := filepath.Join(l.dir, "blobs/sha256", d.Digest.Hex)
			must(t, os.Remove(name))
			must(t, unix.Mkfifo(name, 0o644))
			return l.raw(config, []v1.Descriptor{d}, nil)
		}, "not a regular file"},
	} {
		l := newLayout(t)
		l.index(c.make(l))
		s := l.source()
		_, err := fill(t, s)
		if err == nil || !strings.Contains(err.Error(), c.say) || !strings.HasPrefix(err.Error(), l.dir) {
			t.Errorf("%s: %v, want %s", name, err, c.say)
		}
	}
}

// Entries of layers that reach for what is not theirs.
func TestHostileLayers(t *testing.T) {
	below := layerOf(t, entry{name: "dir", kind: tar.TypeDir}, entry{name: "dir/a"}, entry{name: "up", kind: tar.TypeSymlink, link: "../../../.."})
	for name, c := range map[string]struct {
		layer []byte
		say   string // "" for what must do no harm
	}{
		"up":               {layerOf(t, entry{name: "../a"}), `holds ".."`},
		"up by a whiteout": {layerOf(t, entry{name: "dir/../../.wh.a"}), `holds ".."`},
		"hides .":          {layerOf(t, entry{name: "dir/.wh.."}), "a whiteout that hides no file"},
		"hides ..":         {layerOf(t, entry{name: "dir/.wh..."}), "a whiteout that hides no file"},
		"hides nothing":    {layerOf(t, entry{name: "dir/.wh."}), "a whiteout that hides no file"},
		"below one":        {layerOf(t, entry{name: ".wh.dir/a"}), "an entry below a whiteout"},
		"with content":     {layerOf(t, entry{name: ".wh.dir", content: "x"}), "a whiteout with a content of 1 bytes"},
		"link to a gone":   {layerOf(t, entry{name: ".wh.dir"}, entry{name: "b", kind: tar.TypeLink, link: "dir/a"}), "hard link to what did not come before"},
		"link out":         {layerOf(t, entry{name: "b", kind: tar.TypeLink, link: "../../etc/passwd"}), `holds ".."`},
		"by a link":        {layerOf(t, entry{name: "up/.wh.dir"}, entry{name: "up/new", content: "x"}), ""},
		"cut short":        {layerOf(t, entry{name: "a", content: "abc"})[:514], "the archive is cut short"},
		"no tar":           {bytes.Repeat([]byte("no tar "), 200), "is no tar archive"},
	} {
		l := newLayout(t)
		l.index(l.image(v1.ConfigFile{}, below, c.layer))
		have, err := fill(t, l.source())
		switch {
		case c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)):
			t.Errorf("%s: %v, want %s", name, err, c.say)
		case c.say == "" && (err != nil || have.Exists("dir") || !have.Exists("new")):
			t.Errorf("%s: %v, %s", name, err, describe(t, have))
		}
	}
}

// A layer of the same whiteouts again and again over a large directory is done in no time
// that anyone would notice.
func TestManyWhiteouts(t *testing.T) {
	const many = 4000
	below, above := []entry{{name: "d", kind: tar.TypeDir}}, []entry{}
	for i := range many {
		below = append(below, entry{name: fmt.Sprintf("d/%d", i)})
		above = append(above, entry{name: fmt.Sprintf("d/new-%d", i)}, entry{name: "d/.wh..wh..opq"}, entry{name: ".wh.d"})
	}
	l := newLayout(t)
	l.index(l.image(v1.ConfigFile{}, layerOf(t, below...), layerOf(t, above...)))
	have, err := fill(t, l.source())
	must(t, err)
	if n := have.Root.Child("d").Len(); n != many {
		t.Errorf("%d files are left, not %d", n, many)
	}
}

// Archives that are none, or whose members are not what they should be.
func TestHostileArchives(t *testing.T) {
	dir := t.TempDir()
	at := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, data, 0o600))
		return path
	}
	manifest := func(text string) []byte { return layerOf(t, entry{name: "manifest.json", content: text}) }
	loop := layerOf(t, entry{name: "manifest.json", kind: tar.TypeSymlink, link: "b"}, entry{name: "b", kind: tar.TypeLink, link: "manifest.json"})
	long := make([]entry, 70000)
	for i := range long {
		long[i].name = "x"
	}
	fifo := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	for _, c := range []struct {
		form      oci.Form
		path, say string
	}{
		{oci.Docker, dir, "a directory, where an archive of `docker save` is wanted"},
		{oci.Docker, filepath.Join(dir, "missing"), "no such file or directory"},
		{oci.Docker, fifo, "neither a directory nor a regular file"},
		{oci.Docker, at("empty", nil), "it has no file manifest.json"},
		{oci.Docker, at("text", []byte(strings.Repeat("text ", 300))), "no tar archive, plain or packed"},
		{oci.Layout, at("docker", manifest("[]")), "it has no file oci-layout"},
		{oci.Docker, at("none", manifest("[]")), "it holds no image"},
		{oci.Docker, at("object", manifest("{}")), "cannot unmarshal"},
		{oci.Docker, at("away", manifest(`[{"Config":"../../etc/passwd"}]`)), "../../etc/passwd: file does not exist in the archive"},
		{oci.Docker, at("loop", loop), "too many levels of symbolic links"},
		{oci.Docker, at("many", layerOf(t, long...)), "more than 65536 members"},
		{oci.Docker, at("short", manifest("[]")[:700]), ""},
		{oci.Docker, at("short.gz", gzipped(t, manifest("[]"))[:60]), ""},
	} {
		_, err := fill(t, &oci.Source{Form: c.form, Path: c.path})
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want %s", c.path, err, c.say)
		}
	}
}

// Whatever an index, a manifest or a configuration says, it ends.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:00","size":1}]}`), []byte(`[{"Config":"c","Layers":["l"]}]`), []byte(`{"os":"linux","rootfs":{"type":"layers"}}`))
	f.Fuzz(func(t *testing.T, index, manifest, config []byte) {
		file := filepath.Join(t.TempDir(), "image.tar")
		must(t, os.WriteFile(file, layerOf(t, entry{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "index.json", content: string(index)},
			entry{name: "manifest.json", content: string(manifest)}, entry{name: "c", content: string(config)}, entry{name: "l", content: string(layerOf(t, entry{name: "etc/passwd", content: "u:x:1:1::/:"}))}), 0o600))
		for _, form := range []oci.Form{oci.Layout, oci.Docker} {
			s := &oci.Source{Form: form, Path: file}
			_ = s.Fill(context.Background(), tree.New(), memory{}) // an error or not
			s.Close()
		}
		var c v1.ConfigFile
		if json.Unmarshal(config, &c) == nil {
			into := tree.New()
			must(t, into.WriteFile("/etc/passwd", []byte("u:x:1:1::/home:\n"), 0o644))
			_ = oci.Boot(into, &c, "/proc/self/exe")
		}
	})
}
