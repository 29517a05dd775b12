package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// BenchmarkMerge merges a sparse image of 16 GiB with 1 GiB in use, and a COW file over it
// that changed 125 MiB, into a new image and in place: ours, qemu-img with the equal qcow2
// overlay, and Debian's uml_moo. Every run finds the same files, all of them in the page
// cache and on the disk. Ours ends when all is stable, unless it is told not to wait,
// Debian's before, qemu-img convert before too, unless it is told to flush.
func BenchmarkMerge(b *testing.B) {
	m := newMergeBench(b, b.TempDir())
	debian := oracle.Tool(b, "uml_moo")
	convert := []string{m.qemu, "convert", "-f", "qcow2", "-O", "raw"}
	times := m.run(b, 5, map[string][]string{
		"ours":            {m.ours, m.cow, m.out},
		"ours, no sync":   {m.ours, "--no-sync", m.cow, m.out},
		"convert":         append(slices.Clone(convert), m.overlay, m.out),
		"convert, flush":  append(slices.Clone(convert), "-t", "writeback", m.overlay, m.out),
		"ours -d":         {m.ours, "-d", m.cow},
		"qemu-img commit": {m.qemu, "commit", "-q", m.overlay},
	})
	// A minute a round: fewer.
	for name, t := range m.run(b, 2, map[string][]string{
		"Debian's -d": {debian, "-d", m.cow},
		"Debian's":    {debian, m.cow, m.out},
	}) {
		times[name] = t
	}
	for _, r := range []struct{ name, ours, peer, wanted string }{
		{"new-flushed", "ours", "convert, flush", "0.9"},
		{"new-unflushed", "ours, no sync", "convert", "0.9"},
		{"new-defaults", "ours", "convert", "-"},
		{"new-Debian", "ours", "Debian's", "0.1"},
		{"new-Debian-unflushed", "ours, no sync", "Debian's", "0.1"},
		{"in-place", "ours -d", "qemu-img commit", "1"},
		{"in-place-new", "ours -d", "ours", "1"},
		{"in-place-Debian", "ours -d", "Debian's -d", "0.2"},
	} {
		m.report(b, r.name, times[r.ours], r.peer, times[r.peer], r.wanted)
	}
}

// BenchmarkMergeReflink merges the same into a new image on xfs, which shares blocks.
func BenchmarkMergeReflink(b *testing.B) {
	host := filepath.Join(b.TempDir(), "xfs.img")
	f, err := os.Create(host)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(20 << 30); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, "mkfs.xfs", "-q", "-m", "reflink=1", host)
	m := newMergeBench(b, oracle.Mount(b, host, ""))
	times := m.run(b, 5, map[string][]string{
		"ours":           {m.ours, m.cow, m.out},
		"ours, no sync":  {m.ours, "--no-sync", m.cow, m.out},
		"convert":        {m.qemu, "convert", "-f", "qcow2", "-O", "raw", m.overlay, m.out},
		"convert, flush": {m.qemu, "convert", "-f", "qcow2", "-O", "raw", "-t", "writeback", m.overlay, m.out},
	})
	m.report(b, "reflink-unflushed", times["ours, no sync"], "convert", times["convert"], "0.1")
	m.report(b, "reflink-defaults", times["ours"], "convert", times["convert"], "-")
	m.report(b, "reflink-flushed", times["ours"], "convert, flush", times["convert, flush"], "0.1")
}

// mergeBench is a directory with the files of a merge, and how each was at first.
type mergeBench struct {
	dir, base, cow, overlay, out string
	ours, qemu                   string
}

func newMergeBench(b *testing.B, dir string) mergeBench {
	at := func(name string) string { return filepath.Join(dir, name) }
	m := mergeBench{dir, at("base.img"), lookPair(b, dir), at("disk.qcow2"), at("out.img"),
		guest.Binary(b, "uml_moo"), oracle.Tool(b, "qemu-img")}
	oracle.Run(b, m.ours, m.cow, m.out)
	oracle.Run(b, m.qemu, "convert", "-f", "raw", "-O", "qcow2", "-B", m.base, "-F", "raw", m.out, m.overlay)
	oracle.Run(b, m.qemu, "compare", m.overlay, m.out)
	for _, path := range []string{m.base, m.cow, m.overlay} {
		oracle.Run(b, "cp", "-p", "--sparse=always", path, path+".first")
	}
	return m
}

// begin makes all as it was at first.
func (m mergeBench) begin(b *testing.B) {
	if err := os.RemoveAll(m.out); err != nil {
		b.Fatal(err)
	}
	for _, path := range []string{m.base, m.cow, m.overlay} {
		was, err := os.Stat(path + ".first")
		if err != nil {
			b.Fatal(err)
		}
		// What was only read stays.
		if is, err := os.Stat(path); err != nil || !is.ModTime().Equal(was.ModTime()) {
			os.Remove(path)
			oracle.Run(b, "cp", "-p", "--sparse=always", path+".first", path)
		}
	}
	unix.Sync()
}

// took is the least that a command took: by the clock, and of all processors.
type took struct{ clock, cpu time.Duration }

// run runs a command once more.
func (t *took) run(b *testing.B, argv []string) {
	b.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	start := time.Now()
	if text, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", argv, err, text)
	}
	now := took{time.Since(start), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if t.clock == 0 {
		*t = now
	}
	t.clock, t.cpu = min(t.clock, now.clock), min(t.cpu, now.cpu)
}

func (t took) ratios(peer took) (clock, cpu float64) {
	return t.clock.Seconds() / peer.clock.Seconds(), t.cpu.Seconds() / peer.cpu.Seconds()
}

// run is the best time of each command; the commands take turns.
func (m mergeBench) run(b *testing.B, rounds int, commands map[string][]string) map[string]took {
	best := map[string]took{}
	for range rounds {
		for name, argv := range commands {
			m.begin(b)
			t := best[name]
			t.run(b, argv)
			best[name] = t
		}
	}
	return best
}

func (m mergeBench) report(b *testing.B, name string, ours took, peer string, theirs took, wanted string) {
	ratio, cpu := ours.ratios(theirs)
	fmt.Printf("merge of 16 GiB with 1 GiB in use and 125 MiB changed, %s: %.3f s, %s %.3f s, ratio %.3f (wanted: at most %s); processor %.3f s, %.3f s, ratio %.3f\n",
		name, ours.clock.Seconds(), peer, theirs.clock.Seconds(), ratio, wanted, ours.cpu.Seconds(), theirs.cpu.Seconds(), cpu)
	b.ReportMetric(ratio, name)
	b.ReportMetric(cpu, name+"-cpu")
}
