package emulator_test

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// namespace has the test run in a network namespace of its own, where lo is up. The thread
// ends with the test and takes the namespace with it.
func namespace(t testing.TB) {
	t.Helper()
	oracle.NeedsRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
	host(t, "ip link set lo up")
}

// host runs commands of a shell in the test's namespace.
func host(t testing.TB, commands string) string {
	t.Helper()
	out, err := exec.Command("/bin/sh", "-ec", commands).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	return string(out)
}

// transfer is how much the tests send over TCP, in bytes.
const transfer = 1 << 20

// meet is a script of a guest that has the address 10.9.0.2 on vec0 and the host 10.9.0.1
// behind it: a ping, a file from the host, and the same file back.
const meet = `ip link show vec0 | grep -o '<.*>'
ip addr add 10.9.0.2/24 dev vec0; ip link set vec0 up
n=0; until ping -c 1 -W 1 10.9.0.1 >/dev/null || [ $n = 40 ]; do n=$((n+1)); sleep 0.1; done
ping -c 3 -i 0.1 -s 1400 10.9.0.1 | grep transmitted
nc 10.9.0.1 5001 </dev/null >/file; md5sum </file
nc 10.9.0.1 5002 </file
grep vec0 /proc/net/dev`

// serve is the host's side of meet. It says what to look for in the guest's output, and
// what came back.
func serve(t testing.TB) (sum string, back <-chan string) {
	t.Helper()
	file := make([]byte, transfer)
	rand.New(rand.NewSource(oracle.Seed(t))).Read(file)
	listen := func(port int) net.Listener {
		l, err := net.Listen("tcp4", fmt.Sprintf("10.9.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	give, take := listen(5001), listen(5002)
	came := make(chan string, 1)
	go func() {
		if c, err := give.Accept(); err == nil {
			c.Write(file)
			c.Close()
		}
		if c, err := take.Accept(); err == nil {
			h := md5.New()
			io.Copy(h, c)
			c.Close()
			came <- fmt.Sprintf("%x", h.Sum(nil))
		}
	}()
	return fmt.Sprintf("%x", md5.Sum(file)), came
}

// met fails the test unless the guest's output and what came back say that all went well.
func met(t testing.TB, out, sum string, back <-chan string) {
	t.Helper()
	want(t, out, "<BROADCAST,MULTICAST>\n", "3 packets transmitted, 3 packets received", sum)
	select {
	case got := <-back:
		if got != sum {
			t.Errorf("the file that came back has the sum %s; want %s", got, sum)
		}
	case <-time.After(limit):
		t.Errorf("no file came back")
	}
}

// TestNetworkOfHost joins a guest to the host's own network, over each transport that
// leads there, with offloads and without.
func TestNetworkOfHost(t *testing.T) {
	rd := "initrd=" + shell(t, meet)
	tap := `ip tuntap add dev tap0 mode tap; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up`
	veth := `ip link add veth0 type veth peer name p-veth0; ip addr add 10.9.0.1/24 dev veth0; ip link set veth0 up; ip link set p-veth0 up`
	for _, test := range []struct{ name, host, word string }{
		{"tap", tap, "vec0:transport=tap,ifname=tap0,depth=128,gro=1"},
		{"tap whole", tap, "vec0:transport=tap,ifname=tap0,vec=0"},
		{"raw", veth, "vec0:transport=raw,ifname=p-veth0,depth=128,gro=1"},
		{"raw whole", veth + "; ip link set veth0 gso_max_segs 1", "vec0:transport=raw,ifname=p-veth0"},
		{"hybrid", tap, "vec0:transport=hybrid,ifname=tap0,gro=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespace(t)
			host(t, test.host)
			sum, back := serve(t)
			out, _ := boot(t, rd, test.word)
			met(t, out, sum, back)
		})
	}
}

// switched makes a tap with the host's address and carries frames between it and a socket,
// as a switch with two ports does.
func switched(t testing.TB, name string, socket int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	host(t, "ip addr add 10.9.0.1/24 dev "+name+"; ip link set "+name+" up")
	carry := func(from, to int) {
		b := make([]byte, 1<<16)
		for {
			n, err := unix.Read(from, b)
			if err != nil || n == 0 {
				return
			}
			unix.Write(to, b[:n])
		}
	}
	go carry(fd, socket)
	go carry(socket, fd)
	t.Cleanup(func() {
		unix.Shutdown(socket, unix.SHUT_RDWR)
		unix.Close(socket)
		// Its reader ends with the tap.
		host(t, "ip link del "+name)
		unix.Close(fd)
	})
}

// TestNetworkOfSwitch joins a guest to a switch that the test is, by an inherited socket of
// each kind and by BESS's socket.
func TestNetworkOfSwitch(t *testing.T) {
	rd := "initrd=" + shell(t, meet)
	for name, kind := range map[string]int{"datagram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			switched(t, "tap0", pair[0])
			sum, back := serve(t)
			end := os.NewFile(uintptr(pair[1]), "socket")
			cmd := background(t, []string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + t.TempDir(), rd, "vec0:transport=fd,fd=3"}, end)
			out := ended(t, cmd)
			end.Close()
			met(t, out, sum, back)
		})
	}
	t.Run("bess", func(t *testing.T) {
		namespace(t)
		dir := t.TempDir()
		src, dst := filepath.Join(dir, "guest"), filepath.Join(dir, "switch")
		l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(l)
		if err := unix.Bind(l, &unix.SockaddrUnix{Name: dst}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(l, 1); err != nil {
			t.Fatal(err)
		}
		// What a machine left that was killed.
		old, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(old, &unix.SockaddrUnix{Name: src}); err != nil {
			t.Fatal(err)
		}
		unix.Close(old)
		done := make(chan string, 1)
		go func() {
			out, _ := boot(t, rd, "vec0:transport=bess,src="+src+",dst="+dst)
			done <- out
		}()
		c, from, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := from.(*unix.SockaddrUnix); !ok || a.Name != src {
			t.Errorf("the guest's socket is %+v; want %s", from, src)
		}
		switched(t, "tap0", c)
		sum, back := serve(t)
		met(t, <-done, sum, back)
		if _, err := os.Stat(src); err == nil {
			t.Errorf("%s is left behind", src)
		}
	})
}

// firstGuest and secondGuest are the scripts of two guests that meet: the first waits. nc
// of busybox ends when its other side will send no more, so that who takes keeps its input
// open.
const (
	firstGuest = `mkfifo /open; exec 9<>/open
ip addr add 10.9.0.1/24 dev vec0; ip link set vec0 up
seq 1 200000 >/file; echo "gave $(md5sum </file)"
nc -l -p 5001 <&9 >/got; echo "got $(md5sum </got)"
nc -l -p 5002 </file >/dev/null
nc -l -p 5003 <&9; grep vec0 /proc/net/dev`
	secondGuest = `mkfifo /open; exec 9<>/open
ip addr add 10.9.0.2/24 dev vec0; ip link set vec0 up
n=0; until ping -c 1 -W 1 10.9.0.1 >/dev/null || [ $n = 100 ]; do n=$((n+1)); sleep 0.1; done
ping -c 3 -i 0.1 -s 1400 10.9.0.1 | grep transmitted
seq 2 200002 >/file; echo "gave $(md5sum </file)"
n=0; until nc 10.9.0.1 5001 </file || [ $n = 50 ]; do n=$((n+1)); sleep 0.1; done
n=0; until nc 10.9.0.1 5002 <&9 >/got || [ $n = 50 ]; do n=$((n+1)); sleep 0.1; done; echo "got $(md5sum </got)"
n=0; until echo bye | nc 10.9.0.1 5003 || [ $n = 50 ]; do n=$((n+1)); sleep 0.1; done
grep vec0 /proc/net/dev`
)

// exchanged is what a guest of these says that it gave and got.
func exchanged(t testing.TB, out string) (gave, got string) {
	t.Helper()
	find := func(what string) string {
		if m := regexp.MustCompile(what + ` ([0-9a-f]{32})`).FindStringSubmatch(out); m != nil {
			return m[1]
		}
		t.Errorf("a guest says nothing of what it %s:\n%s", what, out)
		return ""
	}
	return find("gave"), find("got")
}

// background runs a machine whose end Output waits for.
func background(t testing.TB, argv []string, files ...*os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = files
	return started(t, cmd)
}

// started starts a machine; what it writes is kept.
func started(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd
}

// ended waits for a machine's end and returns what it wrote.
func ended(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	return strings.ReplaceAll(cmd.Stdout.(*bytes.Buffer).String(), "\r\n", "\n")
}

// TestNetworkOfRealKernel joins a guest of ours to one of a real kernel, over transports
// that both have. Each is once the one that waits.
func TestNetworkOfRealKernel(t *testing.T) {
	ours, real := guest.Binary(t, "linux"), oracle.RealUML(t)
	rd := [2]string{"initrd=" + shell(t, firstGuest), "initrd=" + shell(t, secondGuest)}
	for i, test := range []struct {
		name, host string
		// nightly is whether the other cases hold the most of this one.
		nightly bool
		// words are those of the first guest and of the second.
		words [2]string
	}{
		{"fd", "", false, [2]string{"vec0:transport=fd,fd=3", "vec0:transport=fd,fd=3"}},
		{"l2tpv3 udp, cookies of 64 bits, counter", "", false, [2]string{
			"vec0:transport=l2tpv3,udp=1,src=127.0.0.1,dst=127.0.0.2,srcport=4001,dstport=4002,rx_session=0x11,tx_session=0x22,rx_cookie=0x33,tx_cookie=0x44,cookie64=1,counter=1",
			"vec0:transport=l2tpv3,udp=1,src=127.0.0.2,dst=127.0.0.1,srcport=4002,dstport=4001,rx_session=0x22,tx_session=0x11,rx_cookie=0x44,tx_cookie=0x33,cookie64=1,counter=1"}},
		{"l2tpv3 ip, cookies of 32 bits", "", false, [2]string{
			"vec0:transport=l2tpv3,udp=0,src=127.0.0.1,dst=127.0.0.2,rx_session=17,tx_session=34,rx_cookie=51,tx_cookie=68",
			"vec0:transport=l2tpv3,udp=0,src=127.0.0.2,dst=127.0.0.1,rx_session=34,tx_session=17,rx_cookie=68,tx_cookie=51"}},
		{"l2tpv3 udp over IPv6", "ip addr add fd00::1/128 dev lo nodad; ip addr add fd00::2/128 dev lo nodad", true, [2]string{
			"vec0:transport=l2tpv3,v6=1,udp=1,src=fd00::1,dst=fd00::2,srcport=4001,dstport=4002,rx_session=1,tx_session=2,counter=1,pin_counter=1",
			"vec0:transport=l2tpv3,v6=1,udp=1,src=fd00::2,dst=fd00::1,srcport=4002,dstport=4001,rx_session=2,tx_session=1,counter=1,pin_counter=1"}},
		{"gre, keys and sequence", "", false, [2]string{
			"vec0:transport=gre,src=127.0.0.1,dst=127.0.0.2,rx_key=5,tx_key=6,sequence=1",
			"vec0:transport=gre,src=127.0.0.2,dst=127.0.0.1,rx_key=6,tx_key=5,sequence=1"}},
		{"gre over IPv6", "ip addr add fd00::1/128 dev lo nodad; ip addr add fd00::2/128 dev lo nodad", true, [2]string{
			"vec0:transport=gre,v6=1,src=fd00::1,dst=fd00::2", "vec0:transport=gre,v6=1,src=fd00::2,dst=fd00::1"}},
		{"raw", "ip link add veth0 type veth peer name veth1; ip link set veth0 up; ip link set veth1 up", true, [2]string{
			"vec0:transport=raw,ifname=veth0,gro=1", "vec0:transport=raw,ifname=veth1,gro=1"}},
		{"tap, bridged", "ip link add br0 type bridge; for t in tap0 tap1; do ip tuntap add dev $t mode tap; ip link set $t master br0; ip link set $t up; done; ip link set br0 up", true, [2]string{
			"vec0:transport=tap,ifname=tap0,gro=1", "vec0:transport=tap,ifname=tap1,gro=1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.nightly && !oracle.Nightly() {
				return
			}
			t.Parallel()
			namespace(t)
			if test.host != "" {
				host(t, test.host)
			}
			files := [2][]*os.File{}
			if test.name == "fd" {
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				for i, fd := range pair {
					files[i] = []*os.File{os.NewFile(uintptr(fd), "socket")}
					defer files[i][0].Close()
				}
			}
			var out [2]string
			var cmds [2]*exec.Cmd
			for who := range cmds {
				kernel := ours
				if (i+who)%2 == 1 {
					kernel = real
				}
				cmds[who] = background(t, []string{kernel, "mem=64M", "uml_dir=" + t.TempDir() + "/", rd[who], test.words[who], "con=null", "con0=null,fd:1"}, files[who]...)
			}
			out[1] = ended(t, cmds[1])
			out[0] = ended(t, cmds[0])
			want(t, out[1], "3 packets transmitted, 3 packets received")
			gave0, got0 := exchanged(t, out[0])
			gave1, got1 := exchanged(t, out[1])
			if gave0 != got1 || gave1 != got0 {
				t.Errorf("the first gave %s and got %s, the second gave %s and got %s", gave0, got0, gave1, got1)
			}
			if t.Failed() {
				t.Logf("first:\n%s\nsecond:\n%s", out[0], out[1])
			}
		})
	}
}
