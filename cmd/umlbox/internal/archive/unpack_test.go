package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

func pack(t testing.TB, members []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		h.Mode = 0o755
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "escaped"
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	return b.Bytes()
}

func unpack(t testing.TB, archive []byte, dir string) string {
	t.Helper()
	var errs bytes.Buffer
	e := &applet.Env{Name: "tar", Stdin: bytes.NewReader(archive), Stdout: applet.NewWriter(io.Discard), Stderr: &errs}
	old, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Chdir(old)
	if err := Tar(e, []string{"-x", "-f", "-", "-C", dir}); err != nil {
		errs.WriteString(err.Error())
	}
	return errs.String()
}

// No member of an archive is written outside the directory it is extracted
// into, whatever names and links the archive has.
func TestUnpackStaysInside(t *testing.T) {
	for name, members := range map[string][]tar.Header{
		"dots":          {{Name: "../out", Typeflag: tar.TypeReg}, {Name: "a/../../out", Typeflag: tar.TypeReg}},
		"absolute":      {{Name: "TOP/out", Typeflag: tar.TypeReg}},
		"link up":       {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/out", Typeflag: tar.TypeReg}},
		"link away":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "TOP"}, {Name: "l/out", Typeflag: tar.TypeReg}},
		"link to file":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "TOP/out"}, {Name: "l", Typeflag: tar.TypeReg}},
		"two links":     {{Name: "a/b/", Typeflag: tar.TypeDir}, {Name: "x", Typeflag: tar.TypeSymlink, Linkname: "a/b"}, {Name: "x/up", Typeflag: tar.TypeSymlink, Linkname: "../../.."}, {Name: "a/b/up/out", Typeflag: tar.TypeReg}},
		"hard link":     {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../victim"}, {Name: "h", Typeflag: tar.TypeReg}},
		"link to link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "TOP"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l"}, {Name: "h/out", Typeflag: tar.TypeReg}},
		"through chain": {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "a/out", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			if err := os.Mkdir(filepath.Join(top, "in"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(top, "victim"), []byte("safe"), 0o644); err != nil {
				t.Fatal(err)
			}
			for i := range members {
				members[i].Name = strings.ReplaceAll(members[i].Name, "TOP", top)
				members[i].Linkname = strings.ReplaceAll(members[i].Linkname, "TOP", top)
			}
			unpack(t, pack(t, members), filepath.Join(top, "in"))
			if _, err := os.Lstat(filepath.Join(top, "out")); err == nil {
				t.Error("a member was written outside")
			}
			if b, _ := os.ReadFile(filepath.Join(top, "victim")); string(b) != "safe" {
				t.Errorf("a file outside now has %q", b)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(f, []tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "d/", Typeflag: tar.TypeDir}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"}}))
	f.Add(pack(f, []tar.Header{{Name: "../x", Typeflag: tar.TypeReg}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "a"}}))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		// Device nodes of a fuzzer are not wanted on this machine.
		for r := tar.NewReader(bytes.NewReader(archive)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Size > 1<<20 {
				return
			}
		}
		top := t.TempDir()
		in := filepath.Join(top, "in")
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		unpack(t, archive, in)
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the directory: %v, %v", entries, err)
		}
	})
}
