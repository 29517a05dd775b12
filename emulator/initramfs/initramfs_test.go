package initramfs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

type want struct {
	name, target, content string
	mode                  uint32
}

// entry is one entry as the format has it.
func entry(name string, inode, mode, links uint32, data string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, mode, 1, 2, links, 3, len(data), 0, 0, 5, 6, len(name)+1, 0, name)
	b.WriteString(strings.Repeat("\x00", -b.Len()&3))
	b.WriteString(data)
	b.WriteString(strings.Repeat("\x00", -b.Len()&3))
	return b.String()
}

var sample = entry(".", 1, 0o40755, 2, "") + entry("a", 2, 0o100644, 1, "hello") + entry("/d//e/", 3, 0o40700, 2, "") +
	entry("l1", 4, 0o100755, 2, "") + entry("l2", 4, 0o100755, 2, "linked") + entry("s", 5, 0o120777, 1, "a") +
	entry("n", 6, 0o20600, 1, "") + entry(trailer, 0, 0, 1, "")

var sampleWant = []want{{".", "", "", 0o40755}, {"a", "", "hello", 0o100644}, {"d/e", "", "", 0o40700},
	{"l1", "", "", 0o100755}, {"l2", "l1", "linked", 0o100755}, {"s", "", "a", 0o120777}, {"n", "", "", 0o20600}}

func readAll(r io.Reader) ([]want, error) {
	var got []want
	err := Read(r, func(e Entry, content io.Reader) error {
		text, err := io.ReadAll(content)
		got = append(got, want{e.Name, e.Target, string(text), e.Mode})
		return err
	})
	return got, err
}

func pack(t *testing.T, w func(io.Writer) (io.WriteCloser, error), text string) string {
	t.Helper()
	var b bytes.Buffer
	c, err := w(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRead(t *testing.T) {
	gz := pack(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, sample)
	for name, text := range map[string]string{
		"plain":      sample,
		"padded":     sample + strings.Repeat("\x00", 512),
		"gzip":       gz,
		"xz":         pack(t, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }, sample),
		"zstd":       pack(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, sample),
		"gzip twice": pack(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, gz),
	} {
		got, err := readAll(strings.NewReader(text))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(sampleWant) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	got, err := readAll(strings.NewReader(sample + "\x00\x00\x00\x00" + gz))
	if err != nil || len(got) != 2*len(sampleWant) {
		t.Errorf("two archives: %d entries, %v", len(got), err)
	}
}

func TestSkips(t *testing.T) {
	var names []string
	err := Read(strings.NewReader(sample), func(e Entry, _ io.Reader) error {
		names = append(names, e.Name)
		return nil
	})
	if err != nil || len(names) != len(sampleWant) {
		t.Errorf("%v, %v: unread content was not skipped", names, err)
	}
	stop := errors.New("stop")
	if err := Read(strings.NewReader(sample), func(Entry, io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the visitor's error became %v", err)
	}
}

func TestRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"garbage":         "what is this, an archive?",
		"no trailer":      entry("a", 2, 0o100644, 1, "hello"),
		"short":           sample[:200],
		"upwards":         entry("../x", 2, 0o100644, 1, "") + entry(trailer, 0, 0, 1, ""),
		"number":          strings.Replace(sample, "070701000000", "070701zzzzzz", 1),
		"long name":       strings.Replace(sample, fmt.Sprintf("%08x%08x.", 2, 0), fmt.Sprintf("%08x%08x.", 1<<20, 0), 1),
		"content missing": entry("a", 2, 0o100644, 1, "hello")[:110],
	} {
		if got, err := readAll(strings.NewReader(text)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, error %v; want one line", name, got, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(sample[:150]))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = Read(bytes.NewReader(data), func(e Entry, content io.Reader) error {
			if e.Name == "" || strings.HasPrefix(e.Name, "/") || strings.Contains("/"+e.Name+"/", "/../") {
				t.Fatalf("name %q", e.Name)
			}
			n, err := io.Copy(io.Discard, content)
			if n > e.Size {
				t.Fatalf("%d bytes of %d", n, e.Size)
			}
			return err
		})
	})
}
