package compression

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

func pack(t testing.TB, tool string, data []byte) []byte {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, tool), "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpack(data []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// What the tools pack is unpacked, also when it is several streams; what is cut short or
// damaged is an error that names the format.
func TestTools(t *testing.T) {
	data := make([]byte, 3<<20)
	rand.New(rand.NewSource(1)).Read(data[:1<<20])
	for _, tool := range []string{"gzip", "xz", "zstd", "bzip2"} {
		packed := pack(t, tool, data)
		if Detect(packed) != tool {
			t.Errorf("%s is taken for %q", tool, Detect(packed))
		}
		for n := 1; n <= 2; n++ {
			got, err := unpack(bytes.Repeat(packed, n))
			if err != nil || !bytes.Equal(got, bytes.Repeat(data, n)) {
				t.Errorf("%d × %s: %d bytes, %v", n, tool, len(got), err)
			}
		}
		for name, bad := range map[string][]byte{"cut": packed[:len(packed)-4], "head only": packed[:7]} {
			if _, err := unpack(bad); err == nil || !strings.Contains(err.Error(), tool) {
				t.Errorf("%s, %s: %v", tool, name, err)
			}
		}
		packed[len(packed)/2] ^= 1
		if _, err := unpack(packed); err == nil {
			t.Errorf("%s: a damaged stream is taken", tool)
		}
	}
	for _, plain := range []string{"", "x", "plain text that is long enough"} {
		if got, err := unpack([]byte(plain)); err != nil || string(got) != plain {
			t.Errorf("%q: %q, %v", plain, got, err)
		}
	}
}

func TestAhead(t *testing.T) {
	data := make([]byte, 5<<20+77)
	rand.New(rand.NewSource(2)).Read(data)
	failure := errors.New("the medium is gone")
	for name, r := range map[string]io.Reader{
		"whole":    bytes.NewReader(data),
		"in bits":  iotest.HalfReader(bytes.NewReader(data)),
		"with end": iotest.DataErrReader(bytes.NewReader(data)),
		"failing":  io.MultiReader(bytes.NewReader(data), iotest.ErrReader(failure)),
	} {
		a := Ahead(t.Context(), r)
		got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(a, 1000)))
		rest, err2 := io.ReadAll(a)
		if err != nil || !bytes.Equal(append(got, rest...), data) || (name == "failing") != errors.Is(err2, failure) {
			t.Errorf("%s: %d bytes, %v, %v", name, len(got)+len(rest), err, err2)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	// Closed before the end, and ended while it waits.
	a := Ahead(t.Context(), bytes.NewReader(data))
	a.Close()
	a.Close()
	pr, pw := io.Pipe()
	defer pw.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a = Ahead(ctx, pr)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gives %v", err)
	}
	a.Close()
}

func FuzzNewReader(f *testing.F) {
	for _, tool := range []string{"gzip", "xz", "zstd", "bzip2"} {
		f.Add(pack(f, tool, []byte("some text, some text, some text")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // an error or not: it ends
	})
}
