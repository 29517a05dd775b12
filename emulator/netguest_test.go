package emulator_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestNetworkSettings sets all that an interface has, by Debian's ip, which speaks netlink,
// and by busybox's programs, which use the older ioctls.
func TestNetworkSettings(t *testing.T) {
	namespace(t)
	host(t, "ip tuntap add dev tap0 mode tap; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up")
	oracle.Tool(t, "ip")
	out, _ := boot(t, "mem=128M", "vec0:transport=tap,ifname=tap0,mac=02:11:22:33:44:55,mtu=1450", "vec7:transport=tap,ifname=tap7,mac=02:11:22:33:44:77", "initrd="+shell(t, `mount -t hostfs none /mnt -o /
mount -t proc proc /mnt/proc; I="chroot /mnt `+oracle.Tool(t, "ip")+`"
try() { echo "$@:"; "$@" 2>&1; [ $? = 0 ] || echo "failed: $@"; }
try $I -o link show vec0
try $I link set vec0 up
try $I -o link show vec0; cat /sys/class/net/vec0/operstate /sys/class/net/vec0/flags
try $I link set vec0 mtu 1400 address 02:00:00:00:00:0a name lan0 promisc on
try $I -o link show lan0
try $I link set lan0 promisc off
try $I link set lan0 mtu 67
try $I link set lan0 address 01:00:00:00:00:0a
try $I link set lan0 name vec7
try $I addr add 10.9.0.2/24 dev lan0
try $I addr change 10.9.0.2/24 dev lan0 valid_lft 3600 preferred_lft 1800
try $I -4 -o addr show dev lan0
try $I route add default via 10.9.0.1
try $I route add 10.77.0.0/16 via 10.9.0.1 dev lan0 metric 5
try $I route show
try $I route add 10.78.0.0/16 via 10.99.0.1
try $I route del 10.77.0.0/16
try $I neigh add 10.9.0.77 lladdr 02:00:00:00:00:4d dev lan0
try $I neigh show
try $I neigh del 10.9.0.77 dev lan0
try ping -c 1 10.9.0.1
try $I -s link show lan0
try $I link set lan0 down
try $I route show
try ifconfig lan0 10.9.0.3 netmask 255.255.255.128 mtu 1300 up
try ifconfig lan0
try route add default gw 10.9.0.1
try route add -net 10.66.0.0 netmask 255.255.0.0 gw 10.9.0.1
try route -n
try route del -net 10.66.0.0 netmask 255.255.0.0
try $I route show
try ping -c 1 10.9.0.1
try ifconfig lan0 hw ether 02:00:00:00:00:0b
try ifconfig lan0 down
try $I -o link show lan0
try chroot /mnt `+oracle.Tool(t, "setpriv")+` --reuid 1 --clear-groups ${I#chroot /mnt} link set lan0 up
try $I link add v0 type veth peer name v1
try $I -o link show v0
umount /mnt/proc; umount /mnt`))
	want(t, out,
		"vec0: <BROADCAST,MULTICAST> mtu 1450 qdisc pfifo_fast state DOWN mode DEFAULT group default qlen 1000\\    link/ether 02:11:22:33:44:55 brd ff:ff:ff:ff:ff:ff",
		"vec0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc pfifo_fast state UP", "\nup\n0x1003\n",
		"lan0: <BROADCAST,MULTICAST,PROMISC,UP,LOWER_UP> mtu 1400 qdisc pfifo_fast state UP mode DEFAULT group default qlen 1000\\    link/ether 02:00:00:00:00:0a",
		"RTNETLINK answers: Invalid argument", "RTNETLINK answers: Cannot assign requested address", "RTNETLINK answers: File exists",
		"inet 10.9.0.2/24", "default via 10.9.0.1 dev lan0", "10.77.0.0/16 via 10.9.0.1 dev lan0", "RTNETLINK answers: Network is unreachable",
		"10.9.0.77 dev lan0 lladdr 02:00:00:00:00:4d PERMANENT", "1 packets transmitted, 1 packets received", "RX:  bytes packets errors dropped",
		"inet addr:10.9.0.3  Bcast:10.9.0.127  Mask:255.255.255.128", "UP BROADCAST RUNNING MULTICAST  MTU:1300", "txqueuelen:1000 \n", "RTNETLINK answers: Operation not permitted",
		"10.66.0.0       10.9.0.1        255.255.0.0", "10.9.0.0/25 dev lan0",
		"lan0: <BROADCAST,MULTICAST> mtu 1300 qdisc pfifo_fast state DOWN mode DEFAULT group default qlen 1000\\    link/ether 02:00:00:00:00:0b",
		"v0: <BROADCAST,MULTICAST,UP,LOWER_UP>")
	// What is refused, and nothing else.
	for _, line := range strings.Split(out, "\n") {
		if text, failed := strings.CutPrefix(line, "failed: "); failed && !strings.Contains(text, "mtu 67") && !strings.Contains(text, "address 01:") &&
			!strings.Contains(text, "name vec7") && !strings.Contains(text, "10.99.0.1") && !strings.Contains(text, "setpriv") {
			t.Errorf("in the guest: %s", text)
		}
	}
}

// TestNetworkRefused holds that a device that cannot be is one line in the log, and the
// machine boots on.
func TestNetworkRefused(t *testing.T) {
	namespace(t)
	rd := "initrd=" + shell(t, "ls -1 /sys/class/net; ip link set vec0 up; echo booted")
	for word, why := range map[string]string{
		"vec0:transport=tap":                                     "vec0: transport=tap: ifname= is missing",
		"vec0=transport=tap,ifname=tap0":                         "vec0=transport=tap,ifname=tap0: vector_setup - Couldn't parse it: write vec0:transport=tap,ifname=tap0",
		"vec0:tap":                                               "vec0: vector_setup - Couldn't parse 'tap'",
		"vec0:transport=raw,ifname=none":                         "vec0: transport=raw: ifname=none: no such interface on the host",
		"vec0:transport=bess,dst=/no/switch":                     "vec0: transport=bess: connect to /no/switch: no such file or directory",
		"vec0:transport=fd,fd=77":                                "vec0: transport=fd: fd=77: not an open descriptor",
		"vec0:transport=gre,src=192.0.2.1,dst=192.0.2.2":         "vec0: transport=gre: bind to 192.0.2.1: cannot assign requested address",
		"vec0:transport=raw,ifname=lo,bpffile=/no/filter":        "vec0: transport=raw: bpffile: open /no/filter: no such file or directory",
		"vec0:transport=l2tpv3,dst=127.0.0.1,udp=1,rx_session=1": "vec0: transport=l2tpv3: tx_session= is missing",
		"vec99999999:transport=bess,dst=/s":                      "vec99999999: 99999999: not the number of a device",
	} {
		out, status := boot(t, rd, word)
		if status != 0 {
			t.Errorf("%s: exit status %d", word, status)
		}
		want(t, out, why, "\nlo\n", "booted\n")
	}
	two := "vec%d:transport=gre,src=127.0.0.1,dst=127.0.0.2,rx_key=%d,tx_key=9"
	out, _ := boot(t, rd, fmt.Sprintf(two, 0, 1), fmt.Sprintf(two, 1, 2), fmt.Sprintf(two, 2, 1))
	want(t, out, "vec2: vec0 has gre src=127.0.0.1,dst=127.0.0.2,rx_key=1 already", "\nvec0\nvec1\n")
}

// openTun has everyone open /dev/net/tun in the test's namespace of mounts, as udev does on
// most hosts.
func openTun(t testing.TB) {
	t.Helper()
	node := filepath.Join(t.TempDir(), "tun")
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(node, 0o666); err != nil {
		t.Fatal(err)
	}
	host(t, "mount --make-rprivate /; mount --bind "+node+" /dev/net/tun")
}

// TestNetworkPrivileges holds which transports an ordinary user has, and what the log says
// of the others.
func TestNetworkPrivileges(t *testing.T) {
	namespace(t)
	const user = 65534
	openTun(t)
	host(t, fmt.Sprintf("ip tuntap add dev mine mode tap user %d; ip addr add 10.9.0.1/24 dev mine; ip link set mine up; ip tuntap add dev other mode tap user 0; ip link set other up", user))
	rd := shell(t, meet)
	dir, err := os.MkdirTemp("", "user")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name := rd; name != "/" && name != os.TempDir(); name = filepath.Dir(name) {
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	linux := guest.Binary(t, "linux")
	run := func(words ...string) string {
		cmd := exec.Command(linux, append([]string{"mem=64M", "uml_dir=" + dir, "initrd=" + rd}, words...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		return ended(t, started(t, cmd))
	}
	sum, back := serve(t)
	out := run("vec0:transport=tap,ifname=mine,gro=1", "vec1:transport=tap,ifname=other", "vec2:transport=tap,ifname=none",
		"vec3:transport=raw,ifname=mine", "vec4:transport=gre,src=127.0.0.1,dst=127.0.0.2", "vec5:transport=l2tpv3,src=127.0.0.1,dst=127.0.0.2,rx_session=1,tx_session=2",
		"vec6:transport=l2tpv3,udp=1,src=127.0.0.1,dst=127.0.0.2,srcport=4001,dstport=4002,rx_session=1,tx_session=2")
	met(t, out, sum, back)
	want(t, out,
		"vec1: transport=tap: other: not made for this user (ip tuntap add dev other mode tap user NAME): operation not permitted: needs CAP_NET_ADMIN (setcap cap_net_admin+ep "+linux+")",
		"vec2: transport=tap: none is not there, and this process may not make it: operation not permitted: needs CAP_NET_ADMIN",
		"vec3: transport=raw: packet socket: operation not permitted: needs CAP_NET_RAW (setcap cap_net_raw+ep ",
		"vec4: transport=gre: raw socket of protocol 47: operation not permitted: needs CAP_NET_RAW",
		"vec5: transport=l2tpv3: raw socket of protocol 115: operation not permitted: needs CAP_NET_RAW")
	if strings.Contains(out, "vec6: ") {
		t.Errorf("l2tpv3 over UDP needs a privilege:\n%s", out)
	}
}

// TestNetworkWhileRunning adds and removes a device by the management console.
func TestNetworkWhileRunning(t *testing.T) {
	namespace(t)
	host(t, "ip tuntap add dev tap0 mode tap user 0; ip addr add 10.9.0.1/24 dev tap0; ip link set tap0 up")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	dir := t.TempDir()
	dst := filepath.Join(dir, "switch")
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: dst}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 4); err != nil {
		t.Fatal(err)
	}
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "con0=fd:0,fd:1", "initrd="+shell(t, `while read line; do eval "$line"; echo "done $?"; done`))
	m.Expect(limit, "Run /init as init process")
	socket := filepath.Join(dir, "T", "mconsole")
	check := func(command string, code int32, text string) {
		t.Helper()
		if c, got := ask(t, socket, command); c != code || got != text {
			t.Errorf("%s: %d %q; want %d %q", command, c, got, code, text)
		}
	}
	do := func(line, pattern string) {
		t.Helper()
		m.Type(line + "\n")
		m.Expect(limit, pattern)
	}
	spec := "transport=bess,dst=" + dst
	check("config vec4", 0, "")
	check("config vec4:"+spec, 0, "")
	check("config vec4="+spec, -16, "Device is already configured")
	check("config vec4", 0, spec)
	check("config vec4x=y", 1, "4x: not the number of a device, 0 to 1048575")
	check("config vec5="+spec+",mtu=3", -22, "mtu=3: not a number from 68 to 65535")
	do("ifconfig vec4 10.9.0.2 up; ip link show vec4", `UP,LOWER_UP(.|\n)*done 0`)
	check("remove vec4", -16, "Device is currently open")
	do("ip link set vec4 down", "done 0")
	check("remove vec4", 0, "")
	check("remove vec4", -19, "Device doesn't exist")
	do("ip link show vec4", "done [12]")
	check("config vec4="+spec, 0, "")
	do("ip link show vec4", `<BROADCAST,MULTICAST>(.|\n)*done 0`)
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
}

// TestNetworkMany brings many devices up, lists them, and has the last two hear each other:
// the Sentry looks at all of them to find one, and answers a list in one piece.
func TestNetworkMany(t *testing.T) {
	namespace(t)
	count := 512
	if oracle.Nightly() {
		count = 4096
	}
	words := []string{"mem=512M", "quiet", "initrd=" + shell(t, fmt.Sprintf(`mount -t hostfs none /mnt -o /
I="chroot /mnt `+oracle.Tool(t, "ip")+`"
seq 0 %d | sed 's/.*/link set vec& up/' | $I -batch - ; echo "batch $?"
echo "up $($I -o link | grep -c ',UP,LOWER_UP.*state UP')"
ip addr add 10.9.0.1/24 dev vec%d; ping -c 1 -W 1 10.9.0.2 >/dev/null
[ $(cat /sys/class/net/vec%d/statistics/rx_packets) -gt 0 ] && echo heard`, count-1, count-2, count-1))}
	for i := range count {
		words = append(words, fmt.Sprintf("vec%d:transport=l2tpv3,udp=1,src=127.0.0.1,dst=127.0.0.1,srcport=%d,dstport=%d,rx_session=1,tx_session=1", i, 10000+i, 10000+(i^1)))
	}
	out, status := boot(t, words...)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out[max(0, len(out)-2000):], "batch 0\n", fmt.Sprintf("up %d\n", count), "heard\n")
}
