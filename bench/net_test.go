package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

// link is a transport between the host and a guest: how the host makes its side, and the
// guest's word.
type link struct{ name, host, word string }

// links are those that both kernels have. The host is 10.9.0.1 on them, the guest 10.9.0.2.
var links = []link{
	{"tap", "ip tuntap add dev tap0 mode tap; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up", "vec0:transport=tap,ifname=tap0,depth=128,gro=1"},
	{"hybrid", "ip tuntap add dev tap0 mode tap; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up", "vec0:transport=hybrid,ifname=tap0,depth=128,gro=1"},
	{"raw", "ip link add veth0 type veth peer name p-veth0; ip addr add 10.9.0.1/24 dev veth0; ip link set veth0 up; ip link set p-veth0 up",
		"vec0:transport=raw,ifname=p-veth0,depth=128,gro=1"},
}

// namespace has the benchmark run in a network namespace of its own, which ends with its
// thread.
func namespace(b *testing.B, commands string) {
	b.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatalf("unshare: %v", err)
	}
	oracle.Run(b, "/bin/sh", "-ec", "ip link set lo up; "+commands)
}

// streamed is what iperf3 --json says of one direction.
type streamed struct {
	End struct {
		Received struct {
			Rate float64 `json:"bits_per_second"`
		} `json:"sum_received"`
	} `json:"end"`
	Error string `json:"error"`
}

// iperf runs a stream of TCP against the guest and returns Gbit/s, and the seconds of a
// processor that the machine took for each gigabit.
func iperf(b *testing.B, pid int, seconds int, args ...string) (rate, processor float64) {
	b.Helper()
	var s streamed
	var before int
	for try := 0; ; try++ {
		before = ticks(b, pid)
		cmd := exec.Command(oracle.Tool(b, "iperf3"), append([]string{"-c", "10.9.0.2", "-t", fmt.Sprint(seconds), "--json", "--connect-timeout", "5000"}, args...)...)
		out, err := cmd.Output()
		s = streamed{}
		if e := json.Unmarshal(out, &s); e == nil && err == nil && s.Error == "" {
			break
		} else if try == 10 {
			b.Fatalf("iperf3: %v %v %s", err, e, s.Error)
		}
		time.Sleep(500 * time.Millisecond) // the server is not done with the one before
	}
	const hertz = 100
	rate = s.End.Received.Rate / 1e9
	return rate, float64(ticks(b, pid)-before) / hertz / (rate * float64(seconds))
}

// roundTrip is the median time of pings to the guest, in microseconds.
func roundTrip(b *testing.B) float64 {
	b.Helper()
	out := oracle.Run(b, "ping", "-c", "300", "-i", "0.005", "10.9.0.2")
	var times []float64
	for _, m := range regexp.MustCompile(`time=([0-9.]+) ms`).FindAllStringSubmatch(out, -1) {
		ms, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, ms*1000)
	}
	if len(times) < 200 {
		b.Fatalf("ping: %s", out)
	}
	return median(times)
}

// BenchmarkNet measures TCP between host and guest by iperf3, in both directions, and
// pings, over each transport, ours and a real kernel's with the same processors. The
// machine's root is the host's own tree, read-only: both have the host's iperf3.
func BenchmarkNet(b *testing.B) {
	seconds := 3
	if oracle.Nightly() {
		seconds = 10
	}
	dir := b.TempDir()
	script := filepath.Join(dir, "init")
	// iperf3 makes a file for what it sends.
	text := "#!/bin/sh\nmount -t tmpfs none /tmp\nip addr add 10.9.0.2/24 dev vec0\nip link set vec0 up\nexec " + oracle.Tool(b, "iperf3") + " -s >/dev/null 2>&1\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		b.Fatal(err)
	}
	for _, l := range links {
		b.Run(l.name, func(b *testing.B) {
			type result struct{ to, from, toCost, fromCost, ping float64 }
			results := map[string]result{}
			for _, k := range kernels(b) {
				func() {
					namespace(b, l.host)
					argv := append(append([]string{}, k.argv...), "uml_dir="+filepath.Join(dir, k.name+l.name)+"/", "mem=512M",
						"rootfstype=hostfs", "rootflags=/", "ro", "init="+script, "con=null", "con0=null,fd:1", "quiet", l.word)
					cmd := exec.Command(argv[0], argv[1:]...)
					if err := cmd.Start(); err != nil {
						b.Fatal(err)
					}
					defer func() {
						cmd.Process.Kill()
						cmd.Wait()
					}()
					// iperf3 takes any connection for a client's, so that it cannot be asked.
					oracle.Run(b, "/bin/sh", "-c", "n=0; until ping -q -c 1 -W 1 10.9.0.2; do n=$((n+1)); [ $n -lt 30 ] || exit 1; done; sleep 1")
					var r result
					r.to, r.toCost = iperf(b, cmd.Process.Pid, seconds)
					r.from, r.fromCost = iperf(b, cmd.Process.Pid, seconds, "-R")
					r.ping = roundTrip(b)
					results[k.name] = r
				}()
			}
			o, r := results["umlkit"], results["real"]
			b.ReportMetric(o.from/r.from, "from-ratio")
			b.ReportMetric(o.to/r.to, "to-ratio")
			b.ReportMetric(o.ping/r.ping, "ping-ratio")
			fmt.Printf("%s: guest to host %.2f Gbit/s, real kernel %.2f, ratio %.2f (wanted: at least 1); %.2f and %.2f s of a processor a gigabit\n",
				l.name, o.from, r.from, o.from/r.from, o.fromCost, r.fromCost)
			fmt.Printf("%s: host to guest %.2f Gbit/s, real kernel %.2f, ratio %.2f (wanted: at least 2); %.2f and %.2f s of a processor a gigabit\n",
				l.name, o.to, r.to, o.to/r.to, o.toCost, r.toCost)
			fmt.Printf("%s: ping %.0f us, real kernel %.0f us, ratio %.2f (wanted: at most 1.2); the HOWTO says more than %s Gbit/s\n",
				l.name, o.ping, r.ping, o.ping/r.ping, map[string]string{"tap": "8"}[l.name]+map[bool]string{true: "6"}[l.name != "tap"])
		})
	}
}
