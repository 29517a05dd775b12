package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// BenchmarkMoo merges a sparse image of 16 GiB with 1 GiB in use, and a COW file over it
// that changed 64 MiB, with ours and with Debian's uml_moo: into a new image, and in
// place. Neither's time includes what is still to be put on the disk after it ended;
// ours puts all there before.
func BenchmarkMoo(b *testing.B) {
	dir := b.TempDir()
	base, cow := mooPair(b, dir)
	ours, theirs := guest.Binary(b, "uml_moo"), oracle.Tool(b, "uml_moo")
	for _, mode := range []struct {
		name   string
		metric string
		args   func(out string) []string
		wanted string
	}{
		{"into a new image", "ratio-new", func(out string) []string { return []string{cow, out} }, "0.2"},
		{"in place", "ratio-in-place", func(string) []string { return []string{"-d", cow} }, "1"},
	} {
		times := map[string]time.Duration{}
		outs := map[string]string{}
		for range 2 {
			for name, moo := range map[string]string{"ours": ours, "Debian's": theirs} {
				outs[name] = filepath.Join(dir, name+".img")
				if err := os.Chtimes(base, mooTime, mooTime); err != nil {
					b.Fatal(err)
				}
				if err := os.RemoveAll(outs[name]); err != nil {
					b.Fatal(err)
				}
				unix.Sync()
				start := time.Now()
				if out, err := exec.Command(moo, mode.args(outs[name])...).CombinedOutput(); err != nil {
					b.Fatalf("%s: %v\n%s", moo, err, out)
				}
				if d := time.Since(start); times[name] == 0 || d < times[name] {
					times[name] = d
				}
			}
		}
		if mode.name == "into a new image" {
			oracle.Run(b, "cmp", outs["ours"], outs["Debian's"])
		}
		ratio := times["ours"].Seconds() / times["Debian's"].Seconds()
		fmt.Printf("uml_moo, 16 GiB with 1 GiB in use, %s: %.2f s, Debian's %.2f s, ratio %.3f (wanted: at most %s)\n",
			mode.name, times["ours"].Seconds(), times["Debian's"].Seconds(), ratio, mode.wanted)
		b.ReportMetric(ratio, mode.metric)
	}
}

var mooTime = time.Unix(1500000000, 0)

func mooPair(b *testing.B, dir string) (base, cow string) {
	b.Helper()
	const (
		size = 16 << 30
		used = 1 << 30
		run  = 4 << 20
	)
	rng := rand.NewChaCha8([32]byte{1})
	data := make([]byte, run)
	base, cow = filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow")
	f, err := os.Create(base)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	for i := int64(0); i < used/run; i++ {
		rng.Read(data)
		if _, err := f.WriteAt(data, i*(size/(used/run))); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Chtimes(base, mooTime, mooTime); err != nil {
		b.Fatal(err)
	}
	d, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := int64(0); i < 1024; i++ {
		rng.Read(data[:64<<10])
		if _, err := d.WriteAt(data[:64<<10], i*(size/1024)+i%7*4096); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	return base, cow
}
