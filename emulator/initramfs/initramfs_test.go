package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
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

// plenty is what archives of tests may unpack to.
var plenty = Limits{Bytes: 24 << 20, Entries: 1000}

func readAll(r io.Reader) ([]want, error) {
	var got []want
	err := Read(r, plenty, func(e Entry, content io.Reader) error {
		text, err := io.ReadAll(content)
		got = append(got, want{e.Name, e.Target, string(text), e.Mode})
		return err
	})
	return got, err
}

// packers are the programs that pack what kernels unpack.
var packers = map[string][]string{
	"gzip": {"gzip", "-9c"}, "bzip2": {"bzip2", "-c"}, "lzma": {"lzma", "-c"}, "zstd": {"zstd", "-qc"},
	"xz": {"xz", "--check=crc32", "-c"}, "xz in blocks": {"xz", "--block-size=256KiB", "--lzma2=dict=1MiB", "-c"}, "lz4": {"lz4", "-lqc"},
	"zstd, no checksum": {"zstd", "-qc", "--no-check", "-19", "--single-thread"},
}

func pack(t testing.TB, program []string, text string) string {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, program[0]), program[1:]...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", program, err)
	}
	return string(out)
}

// TestRead reads an archive plain and packed by every program, and what is behind a packed
// one: padding, a plain archive, a packed one.
func TestRead(t *testing.T) {
	random := make([]byte, 256<<10)
	rand.New(rand.NewSource(oracle.Seed(t))).Read(random)
	for _, text := range []string{sample, sample + strings.Repeat("\x00", 512)} {
		if got, err := readAll(strings.NewReader(text)); err != nil || fmt.Sprint(got) != fmt.Sprint(sampleWant) {
			t.Errorf("plain: %v, %v", got, err)
		}
	}
	for name, program := range packers {
		size := 1 << 20
		if name == "lz4" {
			size = 9 << 20 // two blocks
		}
		content := string(random) + strings.Repeat("\x00", size)
		big := entry("big", 2, 0o100644, 1, content) + entry(trailer, 0, 0, 1, "")
		packed := pack(t, program, sample+"\x00\x00\x00"+big)
		whole := packed + "\x00\x00\x00\x00" + sample + packed + sample + strings.Repeat("\x00", 100)
		got, err := readAll(strings.NewReader(whole))
		if n := len(sampleWant); err != nil || len(got) != 4*n+2 || fmt.Sprint(got[:n]) != fmt.Sprint(sampleWant) ||
			got[n].content != content || fmt.Sprint(got[3*n+2:]) != fmt.Sprint(sampleWant) {
			t.Errorf("%s: %d entries, %v", name, len(got), err)
		}
		short := pack(t, program, sample)
		for _, n := range []int{len(short) / 2, len(short) - 30} {
			if got, err := readAll(strings.NewReader(short[:n])); err == nil {
				t.Errorf("%s cut to %d of %d bytes: %d entries and no error", name, n, len(short), len(got))
			}
		}
	}
}

// TestDebianArchive reads what cpio makes of a directory.
func TestDebianArchive(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "c"), filepath.Join(dir, "d")), os.Symlink("a/b", filepath.Join(dir, "s"))); err != nil {
		t.Fatal(err)
	}
	cpio := func(form string) string {
		cmd := exec.Command(oracle.Tool(t, "cpio"), "-o", "--quiet", "-H", form)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader("a\na/b\nc\nd\ns\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for _, form := range []string{"newc", "crc"} {
		got, err := readAll(strings.NewReader(cpio(form)))
		expect := []want{{"a", "", "", 0o40755}, {"a/b", "", "a/b", 0o100640}, {"c", "", "", 0o100640}, {"d", "c", "c", 0o100640}, {"s", "", "a/b", 0o120777}}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(expect) {
			t.Errorf("%s: %v, %v; want %v", form, got, err, expect)
		}
	}
	if _, err := readAll(strings.NewReader(cpio("odc"))); err == nil || !strings.Contains(err.Error(), "incorrect cpio method used: use -H newc option") {
		t.Errorf("odc: %v", err)
	}
}

func TestSkips(t *testing.T) {
	var names []string
	err := Read(strings.NewReader(sample), plenty, func(e Entry, _ io.Reader) error {
		names = append(names, e.Name)
		return nil
	})
	if err != nil || len(names) != len(sampleWant) {
		t.Errorf("%v, %v: unread content was not skipped", names, err)
	}
	stop := errors.New("stop")
	if err := Read(strings.NewReader(sample), plenty, func(Entry, io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the visitor's error became %v", err)
	}
}

func TestRefuses(t *testing.T) {
	zeros := strings.Repeat("\x00", 25<<20)
	bomb := entry("bomb", 2, 0o100644, 1, zeros)
	many := strings.Repeat(entry("a", 2, 0o100644, 1, ""), 1001)
	gzip, xz, lz4 := packers["gzip"], packers["xz"], packers["lz4"]
	packed := pack(t, xz, sample)
	for name, test := range map[string]struct{ text, want string }{
		"garbage":            {"what is this, an archive?", `invalid magic at start of compressed archive: "what i"`},
		"no trailer":         {entry("a", 2, 0o100644, 1, "hello"), "ends without a trailer"},
		"short":              {sample[:200], "ends without a trailer"},
		"upwards":            {entry("../x", 2, 0o100644, 1, "") + entry(trailer, 0, 0, 1, ""), `name "../x" leads upwards`},
		"number":             {strings.Replace(sample, "070701000000", "070701zzzzzz", 1), "header field 0"},
		"long name":          {strings.Replace(sample, fmt.Sprintf("%08x%08x.", 2, 0), fmt.Sprintf("%08x%08x.", 1<<20, 0), 1), "name of 1048576 bytes"},
		"content missing":    {entry("a", 2, 0o100644, 1, "hello")[:110], "ends within a name"},
		"gzip twice":         {pack(t, gzip, pack(t, gzip, sample)), "junk within compressed archive"},
		"a bomb":             {pack(t, gzip, bomb), "bomb: unpacks to more than 25165824 bytes"},
		"a bomb of lz4":      {pack(t, lz4, bomb), "bomb: unpacks to more than 25165824 bytes"},
		"zeros without end":  {pack(t, gzip, zeros), "unpacks to more than 25165824 bytes"},
		"many files":         {many, "more than 1000 files"},
		"lzo":                {"\x89LZO\x00\r\n\x1a\n", "compression method lzo not configured"},
		"lz4 of today":       {pack(t, []string{"lz4", "-qc"}, sample), "use lz4 -l"},
		"xz for programs":    {pack(t, []string{"xz", "--x86", "--lzma2", "-c"}, sample), "filters for machine code"},
		"xz, cut":            {packed[:len(packed)-20], "unexpected EOF"},
		"xz, large":          {pack(t, []string{"xz", "--lzma2=dict=256MiB", "-c"}, sample), "a dictionary of more than 134217728 bytes"},
		"lzma, large":        {pack(t, []string{"lzma", "--lzma1=dict=256MiB", "-c"}, sample), "a dictionary of 268435456 bytes"},
		"zstd, large":        {"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00", "zstd: window size exceeded"},
		"gzip, a wrong byte": {pack(t, gzip, sample)[:30] + "xxxxxxxx", "gzip: "},
	} {
		if got, err := readAll(strings.NewReader(test.text)); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d entries, error %v; want %q in one line", name, len(got), err, test.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(sample[:150]))
	f.Add([]byte("\x1f\x8b\x08"))
	for _, program := range packers {
		f.Add([]byte(pack(f, program, sample) + sample[:120]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{Bytes: 1 << 20, Entries: 100}
		read, entries := int64(0), int64(0)
		_ = Read(bytes.NewReader(data), limits, func(e Entry, content io.Reader) error {
			if e.Name == "" || strings.HasPrefix(e.Name, "/") || strings.Contains("/"+e.Name+"/", "/../") {
				t.Fatalf("name %q", e.Name)
			}
			n, err := io.Copy(io.Discard, content)
			if n > e.Size {
				t.Fatalf("%d bytes of %d", n, e.Size)
			}
			read, entries = read+n, entries+1
			return err
		})
		if read > limits.Bytes || entries > limits.Entries {
			t.Fatalf("%d files of %d bytes", entries, read)
		}
	})
}
