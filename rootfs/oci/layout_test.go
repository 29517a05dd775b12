package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/oci"
	"github.com/umlkit/umlkit/rootfs/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memory is a store that keeps content in memory.
type memory struct{}

func (memory) Put(size int64, data []tree.Region, r io.Reader) (tree.Content, error) {
	if err := tree.CheckRegions(data, size); err != nil {
		return nil, err
	}
	if data == nil {
		data = []tree.Region{{Off: 0, Len: size}}
	}
	all := make([]byte, size)
	for _, d := range data {
		if _, err := io.ReadFull(r, all[d.Off:d.Off+d.Len]); err != nil {
			return nil, err
		}
	}
	return tree.Bytes(all), nil
}

// fill reads an image into a tree.
func fill(t testing.TB, s *oci.Source) (*tree.Tree, error) {
	t.Helper()
	defer s.Close()
	into := tree.New()
	err := s.Fill(context.Background(), into, memory{})
	return into, err
}

// describe is a line for every entry of a tree, with all that must arrive. Modes of
// links and times of directories that no layer has are not among them.
func describe(t testing.TB, all *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	first := map[*tree.Node]string{}
	must(t, all.Walk(func(path string, _ *tree.Node, _ string, n *tree.Node, _ bool) error {
		fmt.Fprintf(&b, "%s %o %d:%d", path, n.Mode, n.UID, n.GID)
		if !n.IsDir() {
			fmt.Fprintf(&b, " %d", n.Mtime.Unix())
		}
		switch n.Type() {
		case unix.S_IFREG:
			if first[n] == "" {
				first[n] = path
			}
			data, err := n.Read()
			must(t, err)
			fmt.Fprintf(&b, " %d links with %s, %d bytes %x", n.Names(), first[n], len(data), sha256.Sum256(data))
		case unix.S_IFLNK:
			b.WriteString(" -> " + n.Target)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " %d,%d", n.Major, n.Minor)
		}
		for _, name := range []string{"user.note", "security.capability"} {
			if v := n.Xattrs[name]; v != nil {
				fmt.Fprintf(&b, " %s=%q", name, v)
			}
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// entry is a member of a layer.
type entry struct {
	name, content, link string
	kind                byte // a file when 0
	mode                int64
	uid, gid            int
	xattr               string
}

var built = time.Unix(1700000000, 0)

// layerOf makes a layer, not packed.
func layerOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.gid, Linkname: e.link,
			Size: int64(len(e.content)), ModTime: built}
		switch {
		case e.kind == 0:
			h.Typeflag = tar.TypeReg
		case e.kind == tar.TypeChar:
			h.Devmajor, h.Devminor = 1, 3
		}
		if e.mode == 0 {
			h.Mode = 0o644
			if e.kind == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if e.xattr != "" {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": e.xattr}
		}
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.content)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func digest(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func gzipped(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

func zstandard(t testing.TB, data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(data, nil)
}

// layout is an image layout that is made by hand.
type layout struct {
	t    testing.TB
	dir  string
	zstd bool // layers that umoci and Docker's archives do not know
}

func newLayout(t testing.TB) layout {
	t.Helper()
	l := layout{t: t, dir: t.TempDir()}
	must(t, os.MkdirAll(filepath.Join(l.dir, "blobs/sha256"), 0o755))
	l.write("oci-layout", []byte(`{"imageLayoutVersion": "1.0.0"}`))
	return l
}

func (l layout) write(name string, data []byte) {
	l.t.Helper()
	must(l.t, os.WriteFile(filepath.Join(l.dir, name), data, 0o644))
}

// blob adds a blob and gives its descriptor.
func (l layout) blob(kind types.MediaType, data []byte) v1.Descriptor {
	l.t.Helper()
	d := digest(data)
	l.write("blobs/sha256/"+d.Hex, data)
	return v1.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}
}

func (l layout) json(kind types.MediaType, v any) v1.Descriptor {
	l.t.Helper()
	data, err := json.Marshal(v)
	must(l.t, err)
	return l.blob(kind, data)
}

// image adds an image of layers, which are packed and not by turns.
func (l layout) image(config v1.ConfigFile, layers ...[]byte) v1.Descriptor {
	l.t.Helper()
	if config.OS == "" {
		config.OS = "linux"
	}
	if config.Architecture == "" {
		config.Architecture = "amd64"
	}
	config.RootFS.Type = "layers"
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for i, plain := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest(plain))
		switch {
		case i%2 == 1:
			m.Layers = append(m.Layers, l.blob(types.OCIUncompressedLayer, plain))
		case l.zstd:
			m.Layers = append(m.Layers, l.blob(types.OCILayerZStd, zstandard(l.t, plain)))
		default:
			m.Layers = append(m.Layers, l.blob(types.OCILayer, gzipped(l.t, plain)))
		}
	}
	m.Config = l.json(types.OCIConfigJSON, config)
	d := l.json(types.OCIManifestSchema1, m)
	d.Platform = config.Platform()
	return d
}

// index writes index.json of images.
func (l layout) index(images ...v1.Descriptor) {
	l.t.Helper()
	data, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: images})
	must(l.t, err)
	l.write("index.json", data)
}

func named(d v1.Descriptor, name string) v1.Descriptor {
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	return d
}

func (l layout) source() *oci.Source {
	return &oci.Source{Form: oci.Layout, Path: l.dir, Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
}
