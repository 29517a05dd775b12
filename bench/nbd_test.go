package bench

import (
	"bufio"
	"context"
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

// BenchmarkNBD has the same clients work at umlimg serve and at qemu-nbd: at equal raw
// images of 512 MiB, and at a COW file and an equal qcow2 overlay, of which every other
// MiB was changed. Everything is in the page cache. The servers take turns and the best of
// each counts; the processor's time is that of the server alone, in all its rounds.
func BenchmarkNBD(b *testing.B) {
	dir := b.TempDir()
	const size = 512 << 20
	file := func(name string) string { return filepath.Join(dir, name) }
	rng := rand.NewChaCha8([32]byte{1})
	data := make([]byte, size)
	rng.Read(data)
	for _, name := range []string{"base.img", "ours.img", "theirs.img"} {
		if err := os.WriteFile(file(name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	if err := ubdfmt.CreateCOW(file("ours.cow"), file("base.img"), ubdfmt.Options{}); err != nil {
		b.Fatal(err)
	}
	cow, err := ubdfmt.Open(file("ours.cow"), "", ubdfmt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for off := 0; off < size; off += 2 << 20 {
		rng.Read(data[off : off+1<<20])
		if _, err := cow.WriteAt(data[off:off+1<<20], int64(off)); err != nil {
			b.Fatal(err)
		}
	}
	if err := cow.Close(); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file("merged.img"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	lookOverlay(b, file("base.img"), file("merged.img"), file("theirs.qcow2"))
	umlimg, qemu := guest.Binary(b, "umlimg"), oracle.Tool(b, "qemu-nbd")
	oursAt, theirsAt := file("o"), file("q")
	bench := func(args ...string) []string {
		return append([]string{oracle.Tool(b, "qemu-img"), "bench", "-f", "raw"}, args...)
	}
	for _, disk := range []struct{ name, ours, theirs, format string }{{"raw", "ours.img", "theirs.img", "raw"}, {"cow", "ours.cow", "theirs.qcow2", "qcow2"}} {
		servers := [2][]string{
			{umlimg, "serve", "--nbd", "unix:" + oursAt, file(disk.ours)},
			{qemu, "-t", "-e", "16", "-f", disk.format, "-k", theirsAt, file(disk.theirs)},
		}
		for _, work := range []struct {
			name, metric string
			argv         []string
		}{
			{"nbdcopy out of it", "copy-out", []string{oracle.Tool(b, "nbdcopy"), "URI", "null:"}},
			{"read 1 MiB, 8 at once", "read-1M", bench("-c", "2000", "-d", "8", "-s", "1M", "URI")},
			{"read 4 KiB all over, 16 at once", "read-4K", bench("-c", "40000", "-d", "16", "-s", "4096", "-S", "40964096", "URI")},
			{"read 4 KiB all over, one at once", "read-4K-1", bench("-c", "20000", "-d", "1", "-s", "4096", "-S", "40964096", "URI")},
			{"nbdcopy into it", "copy-in", []string{oracle.Tool(b, "nbdcopy"), file("merged.img"), "URI"}},
			{"write 1 MiB, 8 at once", "write-1M", bench("-w", "-c", "500", "-d", "8", "-s", "1M", "URI")},
			{"write 4 KiB all over, 16 at once", "write-4K", bench("-w", "-c", "40000", "-d", "16", "-s", "4096", "-S", "40964096", "URI")},
		} {
			var best, processor [2]time.Duration
			for range 4 {
				for i, argv := range servers {
					took, used := servedTime(b, argv, []string{oursAt, theirsAt}[i], work.argv)
					if processor[i] += used; best[i] == 0 || took < best[i] {
						best[i] = took
					}
				}
			}
			ratio := best[0].Seconds() / best[1].Seconds()
			fmt.Printf("%s, %s: %.3f s, qemu-nbd %.3f s, ratio %.2f (wanted: at most 1); processor's time %.2f\n",
				disk.name, work.name, best[0].Seconds(), best[1].Seconds(), ratio, processor[0].Seconds()/processor[1].Seconds())
			b.ReportMetric(ratio, disk.name+"-"+work.metric)
		}
	}
}

// servedTime runs a server and, when it listens, a client, and returns how long the client
// took and how much of the processor's time the server.
func servedTime(b *testing.B, argv []string, socket string, client []string) (took, used time.Duration) {
	b.Helper()
	_ = os.Remove(socket)
	unix.Sync()
	server := exec.Command(argv[0], argv[1:]...)
	out, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	go func() { // what it may print
		for lines := bufio.NewScanner(out); lines.Scan(); {
		}
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(end) {
			b.Fatalf("%q does not listen", argv)
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	uri := "nbd+unix:///?socket=" + socket
	args := make([]string, 0, len(client))
	for _, a := range client[1:] {
		if a == "URI" {
			a = uri
		}
		args = append(args, a)
	}
	start := time.Now()
	text, err := exec.CommandContext(ctx, client[0], args...).CombinedOutput()
	took = time.Since(start)
	if e := server.Process.Signal(unix.SIGTERM); e != nil {
		b.Fatal(e)
	}
	_ = server.Wait() // qemu-nbd's status is the signal's
	if err != nil {
		b.Fatalf("%q: %v\n%s", client, err, text)
	}
	return took, server.ProcessState.UserTime() + server.ProcessState.SystemTime()
}
