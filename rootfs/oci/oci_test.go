package oci_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/oci"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// plainLayers are three layers in which everything that can happen to a file happens.
func plainLayers(t testing.TB) [][]byte {
	const dir, sym, hard = tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	return [][]byte{
		layerOf(t,
			entry{name: "./", kind: dir, mode: 0o711},
			entry{name: "usr/", kind: dir}, entry{name: "usr/lib", kind: dir}, entry{name: "lib", kind: sym, link: "usr/lib"},
			entry{name: "lib/libc", content: "libc 1"}, entry{name: "etc/", kind: dir}, entry{name: "etc/passwd", content: "root:x:0:0::/root:/bin/sh\n", xattr: "kept"},
			entry{name: "etc/old", content: "old"}, entry{name: "etc/old2", kind: hard, link: "etc/old"},
			entry{name: "gone", content: "gone"}, entry{name: "opaque", kind: dir, uid: 7}, entry{name: "opaque/a", content: "a"},
			entry{name: "opaque/sub", kind: dir}, entry{name: "opaque/sub/b", content: "b"}, entry{name: "opaque/sub/c", content: "c"},
			entry{name: "file-to-dir", content: "x"}, entry{name: "dir-to-file", kind: dir}, entry{name: "dir-to-file/x", content: "x"},
			entry{name: "link-to-dir", kind: sym, link: "etc"}, entry{name: "mode", content: "m", mode: 0o4755, uid: 1000, gid: 4000000000},
			entry{name: "tree", kind: dir}, entry{name: "tree/1", content: "1"}, entry{name: "tree/2", content: "2"},
		),
		layerOf(t,
			entry{name: "lib/libc", content: "libc 2"}, entry{name: ".wh.gone"}, entry{name: "etc/.wh.old"},
			entry{name: "opaque", kind: dir, mode: 0o700}, entry{name: "opaque/new", content: "before the whiteout"},
			entry{name: "opaque/sub", kind: dir, mode: 0o750}, entry{name: "opaque/sub/c", content: "c 2"},
			entry{name: "opaque/.wh..wh..opq"}, entry{name: "opaque/newer", content: "after it"},
			entry{name: "file-to-dir", kind: dir}, entry{name: "file-to-dir/y", content: "y"},
			entry{name: "dir-to-file", content: "a file"}, entry{name: "link-to-dir", kind: dir}, entry{name: "link-to-dir/z", content: "z"},
			entry{name: "null", kind: tar.TypeChar, mode: 0o666},
		),
		layerOf(t), // Docker makes such for what changes only the configuration
		layerOf(t,
			entry{name: "usr/lib/.wh.libc"}, entry{name: "usr/lib/libm", content: "libm"}, entry{name: "tree/.wh.1"}, entry{name: "tree/.wh.never"},
			entry{name: "nowhere/.wh.x"}, entry{name: ".wh.mode"}, entry{name: "mode", content: "again"}, entry{name: "tree/3", kind: hard, link: "tree/2"},
		),
	}
}

// unpackedBy is what umoci makes of a layout.
func unpackedBy(t testing.TB, l layout, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	oracle.Run(t, "umoci", "raw", "unpack", "--image", l.dir+":"+name, dir)
	return dir
}

func hostTree(t testing.TB, dir string) *tree.Tree {
	t.Helper()
	s := &hostdir.Source{Path: dir}
	t.Cleanup(func() { s.Close() })
	all := tree.New()
	must(t, s.Fill(context.Background(), all, nil))
	return all
}

func same(t testing.TB, what, have, want string) {
	t.Helper()
	if have == want {
		return
	}
	h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := 0; i < len(h) && i < len(w); i++ {
		if h[i] != w[i] {
			t.Fatalf("%s: entry %d is\n%s\nwant\n%s", what, i, h[i], w[i])
		}
	}
	t.Fatalf("%s: %d entries, want %d", what, len(h), len(w))
}

// Layers, whiteouts and what replaces what: as umoci has it, and as tar has it when
// whiteouts are done by hand.
func TestLayers(t *testing.T) {
	oracle.NeedsRoot(t) // to own files as others
	layers := plainLayers(t)
	l := newLayout(t)
	l.index(named(l.image(v1.ConfigFile{}, layers...), "all"))
	have, err := fill(t, l.source())
	must(t, err)
	got := describe(t, have)
	same(t, "umoci", got, describe(t, hostTree(t, unpackedBy(t, l, "all"))))
	same(t, "tar", got, describe(t, hostTree(t, extracted(t, layers))))
	if have.Root.Mode != unix.S_IFDIR|0o711 {
		t.Errorf("the root is %o", have.Root.Mode)
	}
}

// extracted unpacks layers by tar. What a layer hides is removed before its files come.
func extracted(t testing.TB, layers [][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, data := range layers {
		file := filepath.Join(t.TempDir(), "layer.tar")
		must(t, os.WriteFile(file, data, 0o600))
		script := `cd "$1"
tar -tf "$2" | while IFS= read -r name; do
	base=${name##*/} parent=./${name%"${name##*/}"}
	case $name in .wh..wh.*) continue ;; esac
	case $base in
	.wh..wh..opq) [ ! -d "$parent" ] || find "$parent" -mindepth 1 -delete ;;
	.wh.*) rm -rf "$parent/${base#.wh.}" ;;
	esac
done
tar -xpf "$2" --xattrs --xattrs-include='*' --numeric-owner --recursive-unlink --keep-directory-symlink --exclude='.wh.*'`
		oracle.Run(t, "sh", "-ec", script, "sh", dir, file)
	}
	return dir
}

// Layers that nobody thought of.
func TestRandomLayers(t *testing.T) {
	oracle.NeedsRoot(t)
	random := rand.New(rand.NewSource(oracle.Seed(t)))
	rounds := 6
	if oracle.Nightly() {
		rounds = 200
	}
	for round := range rounds {
		l := newLayout(t)
		layers := randomLayers(t, random)
		l.index(named(l.image(v1.ConfigFile{}, layers...), "r"))
		have, err := fill(t, l.source())
		must(t, err)
		same(t, fmt.Sprintf("round %d", round), describe(t, have), describe(t, hostTree(t, unpackedBy(t, l, "r"))))
	}
}

// randomLayers makes layers as a builder would: whiteouts are of what is below, and come
// before what their layer has.
func randomLayers(t testing.TB, random *rand.Rand) [][]byte {
	t.Helper()
	type node struct{ dir bool }
	now := map[string]node{} // what all layers so far give
	remove := func(path string) {
		for p := range now {
			if p == path || strings.HasPrefix(p, path+"/") {
				delete(now, p)
			}
		}
	}
	pick := func(want func(string, node) bool) string {
		var all []string
		for p, n := range now {
			if want(p, n) {
				all = append(all, p)
			}
		}
		if len(all) == 0 {
			return ""
		}
		best := all[0] // not by the order of a map
		for i, p := range all {
			if random.Intn(i+1) == 0 || p < best && random.Intn(2) == 0 {
				best = p
			}
		}
		return best
	}
	isDir := func(_ string, n node) bool { return n.dir }
	var layers [][]byte
	for range 2 + random.Intn(5) {
		var entries []entry
		for range random.Intn(8) {
			p := pick(func(string, node) bool { return true })
			if p == "" {
				continue
			}
			if now[p].dir && random.Intn(2) == 0 {
				entries = append(entries, entry{name: p, kind: tar.TypeDir}, entry{name: p + "/.wh..wh..opq"})
				remove(p)
				now[p] = node{true}
				continue
			}
			entries = append(entries, entry{name: filepath.Join(filepath.Dir(p), ".wh."+filepath.Base(p))})
			remove(p)
		}
		for range 3 + random.Intn(25) {
			dir := pick(isDir)
			p := filepath.Join(dir, string(rune('a'+random.Intn(8))))
			if _, there := now[p]; there && random.Intn(3) > 0 {
				continue
			}
			switch random.Intn(5) {
			case 0, 1:
				if !now[p].dir {
					remove(p)
				}
				now[p] = node{true}
				entries = append(entries, entry{name: p, kind: tar.TypeDir, mode: 0o700 + random.Int63n(0o77)})
			case 2:
				remove(p)
				now[p] = node{}
				entries = append(entries, entry{name: p, kind: tar.TypeSymlink, link: "/" + pick(isDir)})
			case 3:
				to := pick(func(q string, n node) bool { return !n.dir && q != p && !strings.HasPrefix(q, p+"/") })
				if to == "" {
					continue
				}
				remove(p)
				now[p] = node{}
				entries = append(entries, entry{name: p, kind: tar.TypeLink, link: to})
			default:
				remove(p)
				now[p] = node{}
				entries = append(entries, entry{name: p, content: fmt.Sprint(random.Int()), uid: random.Intn(2000), xattr: fmt.Sprint(random.Intn(9))})
			}
		}
		layers = append(layers, layerOf(t, entries...))
	}
	return layers
}

// One image in every form, made by others: a directory, an archive of it, packed, on a
// pipe, and what skopeo makes of it for Docker.
func TestForms(t *testing.T) {
	l := newLayout(t)
	l.index(named(l.image(v1.ConfigFile{}, plainLayers(t)...), "all"))
	want, err := fill(t, l.source())
	must(t, err)
	z := newLayout(t)
	z.zstd = true
	z.index(z.image(v1.ConfigFile{}, plainLayers(t)...))
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	oracle.Run(t, "tar", "-C", l.dir, "-cf", at("layout.tar"), ".")
	oracle.Run(t, "skopeo", "--insecure-policy", "--tmpdir", dir, "copy", "-q", "oci:"+l.dir+":all", "docker-archive:"+at("docker.tar")+":app:1")
	oracle.Run(t, "skopeo", "--insecure-policy", "--tmpdir", dir, "copy", "-q", "oci:"+l.dir+":all", "oci:"+at("again")+":app:1")
	for _, name := range []string{"layout.tar", "docker.tar"} {
		oracle.Run(t, "gzip", "-k", at(name))
		oracle.Run(t, "zstd", "-q", at(name))
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	for _, from := range []string{
		"oci:" + l.dir, "oci:" + l.dir + ":all", "oci-layout:" + l.dir, "oci-layout://" + l.dir + ":all", "oci:" + at("again") + ":app:1",
		"oci:" + at("layout.tar"), "oci-archive:" + at("layout.tar") + ":all", "oci:" + at("layout.tar.gz"), "oci:" + at("layout.tar.zst"),
		"docker-archive:" + at("docker.tar"), "docker-archive:" + at("docker.tar") + ":app:1", "docker-archive:" + at("docker.tar") + "@0",
		"docker-archive:" + at("docker.tar.gz"), "docker-archive:" + at("docker.tar.zst"), "docker-archive:-:app:1", "oci:-", "oci:" + z.dir,
	} {
		s, ok := oci.Parse(from, func(path string) bool { _, err := os.Lstat(path); return err == nil })
		if !ok {
			t.Fatalf("%s is no source", from)
		}
		if s.Path == "-" {
			name := map[oci.Form]string{oci.Layout: "layout.tar.gz", oci.Docker: "docker.tar"}[s.Form]
			f, err := os.Open(at(name))
			must(t, err)
			defer f.Close()
			s.Stdin = f
		}
		s.Platform = v1.Platform{OS: "linux", Architecture: "amd64"}
		have, err := fill(t, s)
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		same(t, from, describe(t, have), describe(t, want))
		if done, total := s.Progress(); done != total || total == 0 {
			t.Errorf("%s: %d of %d bytes are told", from, done, total)
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("%q are left, %v", left, err)
	}
}

// What aufs kept for itself is in old images still, and is left out.
func TestAufs(t *testing.T) {
	l := newLayout(t)
	l.index(l.image(v1.ConfigFile{}, layerOf(t, entry{name: ".wh..wh.aufs"}, entry{name: ".wh..wh.plnk", kind: tar.TypeDir},
		entry{name: ".wh..wh.plnk/1.2", content: strings.Repeat("x", 1000)}, entry{name: "a"})))
	have, err := fill(t, l.source())
	must(t, err)
	if got := describe(t, have); !strings.HasPrefix(got, "/a ") || strings.Count(got, "\n") != 1 {
		t.Errorf("it has %s", got)
	}
}

// What umoci makes of changes to a tree, whiteouts by it too.
func TestRepacked(t *testing.T) {
	oracle.NeedsRoot(t)
	l := newLayout(t)
	l.index(named(l.image(v1.ConfigFile{}, plainLayers(t)...), "one"))
	bundle := filepath.Join(t.TempDir(), "bundle")
	oracle.Run(t, "umoci", "unpack", "--image", l.dir+":one", bundle)
	root := filepath.Join(bundle, "rootfs")
	must(t, os.RemoveAll(filepath.Join(root, "opaque")))
	must(t, os.Remove(filepath.Join(root, "tree/2")))
	must(t, os.WriteFile(filepath.Join(root, "tree/4"), []byte("4"), 0o600))
	must(t, os.Chtimes(filepath.Join(root, "tree/4"), built, built)) // umoci rounds times
	oracle.Run(t, "umoci", "repack", "--image", l.dir+":two", bundle)
	s := l.source()
	s.Reference = "two"
	have, err := fill(t, s)
	must(t, err)
	same(t, "repacked", describe(t, have), describe(t, hostTree(t, root)))
}

// Which of several images.
func TestChoose(t *testing.T) {
	l := newLayout(t)
	image := func(arch, variant, says string) v1.Descriptor {
		return l.image(v1.ConfigFile{Architecture: arch, Variant: variant}, layerOf(t, entry{name: "says", content: says}))
	}
	amd, amd3, arm, arm6, arm7 := image("amd64", "", "amd64"), image("amd64", "v3", "amd64/v3"), image("arm64", "v8", "arm64"), image("arm", "v6", "v6"), image("arm", "v7", "v7")
	proof := l.image(v1.ConfigFile{OS: "unknown", Architecture: "unknown"})
	proof.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	proof.Platform = nil
	arm7.Platform = nil // the configuration says it
	many := named(l.json(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{proof, amd3, amd, arm, arm6, arm7}}), "many")
	many.Platform = nil
	other := named(image("amd64", "", "other"), "other")
	for _, c := range []struct {
		index              []v1.Descriptor
		ref, platform, say string
	}{
		{[]v1.Descriptor{many}, "", "linux/amd64", "amd64"},
		{[]v1.Descriptor{many}, "many", "linux/amd64/v3", "amd64/v3"},
		{[]v1.Descriptor{many}, "", "linux/arm64", "arm64"},
		{[]v1.Descriptor{many}, "", "linux/arm64/v8", "arm64"},
		{[]v1.Descriptor{many}, "", "linux/arm/v7", "v7"},
		{[]v1.Descriptor{many}, "", "linux/arm", "error: 2 variants: --platform chooses one of linux/arm/v6, linux/arm/v7"},
		{[]v1.Descriptor{many}, "", "linux/riscv64", "error: no image for linux/riscv64; there is linux/amd64/v3, linux/amd64, linux/arm64/v8, linux/arm/v6, linux/arm/v7: --platform chooses"},
		{[]v1.Descriptor{many, other}, "other", "linux/amd64", "other"},
		{[]v1.Descriptor{many, other}, "@" + other.Digest.String(), "linux/amd64", "other"},
		{[]v1.Descriptor{many, other}, "", "linux/arm64", "arm64"},
		{[]v1.Descriptor{many, other}, "third", "linux/amd64", "error: no image of that name; it has many, other"},
		{[]v1.Descriptor{other, many}, "", "linux/amd64", "error: 2 images: name one of them, as oci:" + l.dir + ":other (:other, :many)"},
		{[]v1.Descriptor{named(amd, "x"), named(amd, "y")}, "", "linux/amd64", "amd64"},
		{[]v1.Descriptor{amd}, "", "linux/arm64", "error: no image for linux/arm64; there is linux/amd64: --platform chooses"},
		{nil, "", "linux/amd64", "error: it holds no image"},
	} {
		l.index(c.index...)
		s := l.source()
		s.Reference = c.ref
		p, err := v1.ParsePlatform(c.platform)
		must(t, err)
		s.Platform = *p
		all, err := fill(t, s)
		have := ""
		if err != nil {
			have = "error: " + strings.TrimPrefix(err.Error(), s.String()+": ")
		} else {
			data, err := all.ReadFile("says", 100)
			must(t, err)
			have = string(data)
		}
		if have != c.say {
			t.Errorf("%q for %s of %d: %s, want %s", c.ref, c.platform, len(c.index), have, c.say)
		}
	}
}

// An archive of Docker with several images, as docker save writes it.
func TestDockerNames(t *testing.T) {
	dir := t.TempDir()
	var manifest []map[string]any
	for i, tags := range [][]string{{"one:latest", "uno:1"}, {"two:2"}, nil} {
		layer := layerOf(t, entry{name: "says", content: fmt.Sprint(i)})
		config, err := json.Marshal(v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{digest(layer)}}})
		must(t, err)
		name := fmt.Sprintf("%d/layer.tar", i)
		must(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
		if i == 1 { // old ones name a layer that another has, too, so
			must(t, os.WriteFile(filepath.Join(dir, "real.tar"), layer, 0o644))
			must(t, os.Symlink("../real.tar", filepath.Join(dir, name)))
		} else {
			must(t, os.WriteFile(filepath.Join(dir, name), layer, 0o644))
		}
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)+".json"), config, 0o644))
		manifest = append(manifest, map[string]any{"Config": fmt.Sprint(i) + ".json", "RepoTags": tags, "Layers": []string{name}})
	}
	data, err := json.Marshal(manifest)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "manifest.json"), data, 0o644))
	file := filepath.Join(t.TempDir(), "saved.tar")
	oracle.Run(t, "tar", "-C", dir, "-cf", file, ".")
	for ref, want := range map[string]string{
		"one": "0", "one:latest": "0", "uno:1": "0", "two:2": "1", "@1": "1", "@2": "2",
		"two":   "no image of that name; it has one:latest, uno:1, two:2",
		"@3":    "no image of that name; it has one:latest, uno:1, two:2",
		"":      "3 images: name one of them, as docker-archive:" + file + "@0 (one:latest, uno:1, two:2)",
		"arm64": "",
	} {
		s := &oci.Source{Form: oci.Docker, Path: file, Reference: ref, Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
		if ref == "arm64" {
			s.Reference, s.Platform.Architecture, want = "@0", "arm64", "no image for linux/arm64; there is linux/amd64: --platform chooses"
		}
		all, err := fill(t, s)
		have := ""
		if err != nil {
			have = strings.TrimPrefix(err.Error(), s.String()+": ")
		} else {
			data, err := all.ReadFile("says", 100)
			must(t, err)
			have = string(data)
		}
		if have != want {
			t.Errorf("%q: %s, want %s", ref, have, want)
		}
	}
}
