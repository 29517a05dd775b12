package hwrng

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/fdt"
)

func TestParse(t *testing.T) {
	for spec, want := range map[string]string{
		"/dev/urandom": "/dev/urandom 0", "/f,1": "/f 1", "/f,64K": "/f 65536", "/f,2M": "/f 2097152", "/a,b": "/a,b 0", "/a,b,7": "/a,b 7", "/a,": "/a, 0", "/a,1G": "/a,1G 0",
	} {
		s, err := parse(spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
		} else if got := fmt.Sprintf("%s %d", s.file, s.rate); got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		} else if again, err := parse(s.String()); err != nil || again.rate != s.rate || again.file != s.file {
			t.Errorf("%s becomes %s", spec, s)
		}
	}
	for _, spec := range []string{"", ",1", "/f,0", "/f,-1", "/f,9999999999999999", "/f,1048577M"} {
		if s, err := parse(spec); err == nil {
			t.Errorf("%s: %v", spec, s)
		}
	}
}

func TestFromTree(t *testing.T) {
	text := func(name, value string) fdt.Property {
		return fdt.Property{Name: name, Value: []byte(value + "\x00")}
	}
	for _, test := range []struct {
		properties []fdt.Property
		want       string
	}{
		{nil, "/dev/urandom"},
		{[]fdt.Property{text("source", "/f")}, "/f"},
		{[]fdt.Property{text("source", "/f"), {Name: "rate-limit", Value: []byte{0, 0, 4, 0}}}, "/f,1024"},
		{[]fdt.Property{{Name: "source", Value: []byte("/f")}}, "rng@0: source is not a string"},
		{[]fdt.Property{text("source", "/a\x00/b")}, "rng@0: source is not a string"},
		{[]fdt.Property{text("rate-limit", "lots")}, "rng@0: rate-limit is not a number of 32 bits"},
	} {
		spec, err := FromTree(&fdt.Node{Name: "rng@0", Properties: test.properties})
		if err != nil {
			spec = err.Error()
		}
		if spec != test.want {
			t.Errorf("%v: %q, want %q", test.properties, spec, test.want)
		}
	}
}

func TestDriver(t *testing.T) {
	var said []bool
	d := New(func(present bool) { said = append(said, present) })
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	code := func(err error, want driver.Code) {
		t.Helper()
		if got, text := driver.Status(err); got != want || strings.Contains(text, "\n") {
			t.Errorf("%d %q, want %d", got, text, want)
		}
	}
	code(d.Remove(""), driver.NoDevice)
	code(d.Configure("0", "/dev/urandom"), driver.Unparsed)
	code(d.Configure("", ""), driver.Invalid)
	code(d.Configure("", "/no/such"), driver.NotFound)
	code(d.Configure("", dir), driver.Invalid)
	code(d.Configure("", fifo), driver.Invalid)
	if len(said) != 0 {
		t.Errorf("changed %v", said)
	}
	code(d.Configure("", "/dev/urandom,1K"), 0)
	code(d.Configure("", "/dev/urandom"), driver.Busy)
	if text, err := d.Describe(""); text != "/dev/urandom,1024" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	d.open++
	code(d.Remove(""), driver.Busy)
	d.open--
	code(d.Remove(""), 0)
	if text, _ := d.Describe(""); text != "" || len(said) != 2 || !said[0] || said[1] {
		t.Errorf("%q after it was removed, changed %v", text, said)
	}
	d.Close()
}

// TestRate holds how many bytes there are as time passes.
func TestRate(t *testing.T) {
	name := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(name, make([]byte, 10000), 0o644); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	s := &source{file: name, rate: 1000, left: 1000, then: now}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s.fd)
	take := func(n, want int64) {
		t.Helper()
		may := s.may(n, now)
		got, err := s.read(make([]byte, may))
		if may != want || int64(got) != want || err != nil {
			t.Errorf("%d of %d, %v; want %d", got, n, err, want)
		}
	}
	take(600, 600)
	take(600, 400)
	take(1, 0)
	now = now.Add(100 * time.Microsecond) // a tenth of a byte
	take(1, 0)
	now = now.Add(time.Millisecond)
	take(10, 1)
	now = now.Add(time.Hour)
	take(5000, 1000)
	take(1, 0)
	now = now.Add(-time.Hour) // the host's clock was set
	take(1, 0)
}
