package debian

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Whatever a package's file holds, unpacking it ends, and with an error or a tree.
func FuzzPackage(f *testing.F) {
	a := newArchive(f)
	a.system()
	for _, deb := range a.debs {
		data, err := os.ReadFile(deb)
		must(f, err)
		f.Add(data)
	}
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := newUnpacker(tree.New(), memory{})
		must(t, err)
		p, err := readPackage("Package: core\nVersion: 1.0-1\nArchitecture: amd64\nFilename: core.deb\nSize: 1\nSHA256: " + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n")
		must(t, err)
		_ = u.add(context.Background(), p, bytes.NewReader(data)) // an error or not
		must(t, u.finish())
	})
}

// Release files, indexes and apt's files of any bytes.
func FuzzText(f *testing.F) {
	f.Add("Suite: testing\nSHA256:\n 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef 12 main/x\n")
	f.Add("Package: a\nVersion: 1\nArchitecture: all\nFilename: a\nSize: 1\nSHA256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\nEssential: yes\nDepends: b (>= 1) | c, d:any [amd64] <!x>\nProvides: b (= 2)\nConflicts: a\n")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := parseRelease([]byte(text)); err == nil {
			_ = r.check("testing", "amd64", nil, time.Now())
		}
		_, _ = verifyInline([]byte(text), nil, time.Now())
		_ = unsigned([]byte(text))
		listSources(text)
		deb822Sources(text)
		if u, err := newUniverse("amd64", text); err == nil {
			_, _ = u.resolve("minbase", nil)
		}
	})
}
