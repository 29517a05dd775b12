package emulator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestNetworkLegacy joins guests by ethN= in the words of older kernels: two of ours by
// UDP, and one to the host by uml_switch and by a tap. Kernels that have these are gone.
func TestNetworkLegacy(t *testing.T) {
	linux := guest.Binary(t, "linux")
	as := func(script string) string { return "initrd=" + shell(t, strings.ReplaceAll(script, "vec0", "eth0")) }
	for _, test := range []struct {
		name, host string
		words      [2]string
		log        string
	}{
		{"mcast", "ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo", [2]string{"eth0=mcast", "eth0=mcast,02:00:00:00:00:07,239.192.168.1,1102,1"},
			"eth0=mcast is vec0:transport=mcast\n"},
		{"ucast", "", [2]string{"eth0=ucast,,127.0.0.1,5000,5001", "eth0=ucast,,127.0.0.1,5001,5000"},
			"eth0=ucast,,127.0.0.1,5000,5001 is vec0:transport=ucast,dst=127.0.0.1,srcport=5000,dstport=5001\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespace(t)
			if test.host != "" {
				host(t, test.host)
			}
			first := background(t, []string{linux, "mem=64M", "uml_dir=" + t.TempDir(), as(firstGuest), test.words[0]})
			second := background(t, []string{linux, "mem=64M", "uml_dir=" + t.TempDir(), as(secondGuest), test.words[1]})
			b := ended(t, second)
			a := ended(t, first)
			want(t, a, test.log)
			want(t, b, "3 packets transmitted, 3 packets received")
			gaveA, gotA := exchanged(t, a)
			gaveB, gotB := exchanged(t, b)
			if gaveA != gotB || gaveB != gotA {
				t.Errorf("the first gave %s and got %s, the second gave %s and got %s", gaveA, gotA, gaveB, gotB)
			}
		})
	}
	t.Run("tuntap", func(t *testing.T) {
		namespace(t)
		host(t, "ip tuntap add dev tap0 mode tap; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up")
		sum, back := serve(t)
		out, _ := boot(t, as(meet), "eth0=tuntap,tap0,02:00:00:00:00:05,10.9.0.1")
		met(t, out, sum, back)
		want(t, out, "eth0: the address of the host's side is set on the host: ip addr add 10.9.0.1 dev IFACE")
	})
	t.Run("daemon", func(t *testing.T) {
		namespace(t)
		ctl := filepath.Join(t.TempDir(), "ctl")
		host(t, "ip tuntap add dev tap0 mode tap")
		cmd := exec.Command(oracle.Tool(t, "uml_switch"), "-unix", ctl, "-tap", "tap0")
		stdin, err := cmd.StdinPipe() // it ends with its input
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(ctl); err == nil {
				break
			} else if time.Since(start) > limit {
				t.Fatal(err)
			}
		}
		host(t, "ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up")
		sum, back := serve(t)
		out, _ := boot(t, as(meet), "eth0=daemon,,unix,"+ctl)
		met(t, out, sum, back)
	})
	t.Run("refused", func(t *testing.T) {
		rd := as("ls -1 /sys/class/net")
		for word, why := range map[string]string{
			"eth0=slip,,":                  "eth0: slip is obsolete: use vecN:transport=tap",
			"eth0=ethertap,tap0":           "eth0: ethertap is obsolete: use vecN:transport=tap",
			"eth0=daemon,,unix,/no/switch": "eth0: transport=daemon: dial unix /no/switch: connect: no such file or directory",
			"eth0=mcast,,10.0.0.1":         "eth0: group=10.0.0.1: not an IPv4 address of a group",
		} {
			out, status := boot(t, rd, word)
			if status != 0 {
				t.Errorf("%s: exit status %d", word, status)
			}
			want(t, out, why, "\nlo\n")
		}
	})
}
