package proof

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
)

// toolsTell runs Debian's tools that tell of a machine, in one that was booted from
// /dev/ubda with mem=768M and an empty disk of 1 MiB as ubd1, and logged into on tty1, with the machine's shell quiet.
func toolsTell(t *testing.T, m *guest.Machine) {
	t.Helper()
	for _, test := range []struct{ command, want string }{
		{"lsblk -rno NAME,MAJ:MIN,RM,SIZE,RO,TYPE,MOUNTPOINT", `^ubda 98:0 0 16G 0 disk /\nubdb 98:16 0 1M 0 disk ?\n$`},
		{"lsblk -rno NAME,FSTYPE,UUID", `^ubda ext4 [0-9a-f-]{36}\nubdb *\n$`},
		{"blkid", `^/dev/ubda: UUID="[0-9a-f-]{36}" BLOCK_SIZE="4096" TYPE="ext4"\n$`},
		{"findmnt -rno SOURCE,FSTYPE /; findmnt -rno TARGET -S /dev/ubda; findmnt -rno FSTYPE /proc", `^/dev/ubda ext4\n/\nproc\n$`},
		{"findmnt --verify --verbose | grep -v udev", `Success, no errors`},
		{"df --output=source,fstype,target / | tail -1", `^/dev/ubda\s+ext4\s+/\n$`},
		{"df -a >/dev/null", `^$`},
		{"free -m", `(?m)^Mem: +768 +\d+ +[1-9]\d+ `},
		{"free -m | grep Swap", `Swap: +0 +0 +0`},
		{"top -b -n 1 | head -12", `(?s)^top - .* up .*load average: .*Tasks: +\d+ total.*MiB Mem : +768\.0 total.* 1 root `},
		{"vmstat", `(?m)^ *\d+ +\d+ +0 +[1-9]\d+( +\d+)+$`},
		{"vmstat -s", `(?m)^ +786432 K total memory\n(.*\n)+ +[1-9]\d* K paged in\n(.*\n)+ +[1-9]\d* CPU context switches\n +\d+ boot time\n +[1-9]\d* forks$`},
		{"vmstat -d | grep ubda", `^ubda +[1-9]`},
		{"vmstat 1 2 | wc -l", `^4\n$`},
		{"uptime", `^ \d\d:\d\d:\d\d up .*1 user,  load average: `},
		{"who", `^root +tty1 +(\d{4}-|[A-Z][a-z]{2} )`},
		{"who -b", `system boot +(\d{4}-|[A-Z][a-z]{2} )`},
		{"w -h", `^root +tty1 `},
		{"ps -o tty=,comm= -p $$", `^tty1 +bash\n$`},
		{"ps -t tty1 -o comm= | grep -c bash", `^1\n$`},
		{"lsmod | wc -l; cat /proc/modules /proc/sys/kernel/modules_disabled", `^1\n1\n$`},
		{`perl -e 'for $call (175, 176, 313) { $name = "x"; print syscall($call, $name, 0, $name), " $!\n" }'`,
			`^-1 Operation not permitted\n-1 Operation not permitted\n-1 Operation not permitted\n$`},
		{"cat /proc/version", `^Linux version \S+-umlkit `},
		{"grep -o root=/dev/ubda /proc/cmdline", `^root=/dev/ubda\n$`},
		{"grep -w ext4 /proc/filesystems; grep -w hostfs /proc/filesystems; grep ubda /proc/partitions", `^\text4\nnodev\thostfs\n +98 +0 +16777216 ubda\n$`},
		{"ls /sys/class/net; cd /sys/class/net/lo; cat operstate flags type ifindex address; cat uevent; readlink -f subsystem; cd",
			`^lo\nunknown\n0x9\n772\n1\n00:00:00:00:00:00\nINTERFACE=lo\nIFINDEX=1\n/sys/class/net\n$`},
		{"grep fuse /proc/misc", `^229 fuse\n$`},
		{"sysctl -n kernel.ostype", `^Linux\n$`},
		{"mkswap -q /dev/ubdb && swapon /dev/ubdb; swapon --show; swapoff -a; blkid -o value -s TYPE /dev/ubdb", `^swapon: /dev/ubdb: swapon failed: Invalid argument\nswap\n$`},
	} {
		got, _ := m.Try(time.Minute, test.command)
		if !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%s says\n%s\nwant %s", test.command, got, test.want)
		}
	}
	// What counts goes up, and never down.
	counts := func(command string) int {
		t.Helper()
		return number(t, m.Sh(time.Minute, command))
	}
	for _, command := range []string{
		"awk '/^ctxt/ {print $2}' /proc/stat", "awk '/^processes/ {print $2}' /proc/stat", "awk '/^pgfault/ {print $2}' /proc/vmstat",
		"awk '/^pgpgout/ {print $2}' /proc/vmstat", "cat /sys/class/net/lo/statistics/rx_packets",
	} {
		before := counts(command)
		m.Sh(time.Minute, "dd if=/dev/zero of=/root/traffic bs=64k count=4 conv=fsync status=none; rm /root/traffic; perl -MSocket -e 'socket S, PF_INET, SOCK_DGRAM, 0; send S, x, 0, pack_sockaddr_in(9, inet_aton q(127.0.0.1)) or die $!'")
		if after := counts(command); after <= before {
			t.Errorf("%s: %d, and after some traffic %d", command, before, after)
		}
	}
}

// number is the number that a command printed.
func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
