package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"testing"

	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/rootfs/tarball"
)

// Content that a later entry replaced is nowhere in the image's file.
func TestReplacedIsGone(t *testing.T) {
	var packed bytes.Buffer
	gz := gzip.NewWriter(&packed)
	w := tar.NewWriter(gz)
	secret, public := bytes.Repeat([]byte("secret! "), 10000), bytes.Repeat([]byte("public. "), 10000)
	for _, data := range [][]byte{secret, public} {
		must(t, w.WriteHeader(&tar.Header{Name: "key", Mode: 0o600, Size: int64(len(data))}))
		_, err := w.Write(data)
		must(t, err)
	}
	must(t, w.Close())
	must(t, gz.Close())
	image, err := os.ReadFile(build(t, &tarball.Source{Path: "-", Stdin: &packed}, 32<<20, rootfs.Options{}))
	must(t, err)
	if bytes.Contains(image, []byte("secret!")) || !bytes.Contains(image, public) {
		t.Error("the image holds what was replaced, or not what it was replaced by")
	}
}
