package cmdline

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Form is the shape of the words an option takes.
type Form int

// The shapes of words.
const (
	Word   Form = iota // the name alone: ro
	Value              // NAME=VALUE: mem=64M
	Unit               // NAME, a unit, "=" and a value: ubd0r=FILE; the unit may be empty
	Colon              // NAME, a unit, ":" and a value: vec0:transport=tap
	Prefix             // anything that begins with the name: systemd.unit=rescue
)

// Option is one entry of the table that Parse, Usage and Roff read.
type Option struct {
	Name string // what a word begins with
	Form Form
	Show string // the option as help shows it, its arguments in capitals
	Text string // what it does, in sentences
	// Note is what the kernel log says when the word stands on the line, for an
	// option that is taken and has no effect.
	Note string

	// apply obeys the word. It returns why it cannot, or "". Nil: the word has no
	// effect but Note.
	apply func(*Config, setting) string
}

// setting is a word taken apart.
type setting struct {
	word, unit, value string
}

// match reports whether word is one of the option's, and takes it apart.
func (o *Option) match(word string) (unit, value string, ok bool) {
	rest, ok := cutName(word, o.Name)
	if !ok {
		return "", "", false
	}
	switch o.Form {
	case Word:
		return "", "", rest == ""
	case Value:
		value, ok = strings.CutPrefix(rest, "=")
		return "", value, ok
	case Unit:
		unit, value, ok = strings.Cut(rest, "=")
		return unit, value, ok && unitLike(unit)
	case Colon:
		// "=" in its place is a mistake that apply names.
		i := strings.IndexAny(rest, ":=")
		if i < 1 || !unitLike(rest[:i]) {
			return "", "", false
		}
		return rest[:i], rest[i+1:], true
	default:
		return "", rest, true
	}
}

// cutName cuts name off word; "-" and "_" are the same in the name of a parameter, as
// in Linux, but for the two dashes of --help.
func cutName(word, name string) (rest string, ok bool) {
	if len(word) < len(name) {
		return "", false
	}
	dash := strings.NewReplacer("-", "_")
	head := word[:len(name)]
	if head != name && (strings.HasPrefix(name, "--") || dash.Replace(head) != dash.Replace(name)) {
		return "", false
	}
	return word[len(name):], true
}

// unitLike reports whether s can stand between a driver's name and "=": digits and
// letters. Whether the driver has that unit is for the driver to say.
func unitLike(s string) bool {
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return len(s) <= 16
}

// conUnit is unitLike for consoles and network devices, whose units are numbers:
// "console=" and "ethernet=" are other words.
func number(unit string) bool {
	for _, r := range unit {
		if r < '0' || r > '9' {
			return false
		}
	}
	return true
}

// Options is the table, in the order of help. The first entry that matches a word
// takes it.
var Options = []Option{
	{Name: "mem", Form: Value, Show: "mem=N[K|M|G]",
		Text:  "Memory of the guest, in bytes or with a unit in either case. The default is 64M.",
		apply: func(c *Config, s setting) string { return memory(&c.Memory, s.value, MinMemory) }},
	{Name: "ncpus", Form: Value, Show: "ncpus=N",
		Text:  "Processors the guest sees, 1 to 64. The default is 1.",
		apply: func(c *Config, s setting) string { return integer(&c.CPUs, s.value, 1, 64) }},

	{Name: "ubd", Form: Unit, Show: "ubdN[FLAGS]=FILE[,BACKING[,SERIAL]]",
		Text: "Block device N, 0 to 15 or a to p, on the host file FILE; with a second file FILE is a COW file " +
			"over BACKING, made when it is missing. ':' separates as ',' does. FLAGS: r read-only, s every write is stable " +
			"when it returns, c shared without a lock, d FILE is no COW file whatever it looks like, t no TRIM. " +
			"The guest has it as /dev/ubda, /dev/ubd0 and /dev/ubd/0. A directory is no disk: as the root it is booted as a hostfs. 'ubd=sync' makes every device synchronous. Without a ubd0 the file root_fs is it, where there is one.",
		apply: device("ubd")},
	{Name: "udb", Form: Prefix, Show: "udb",
		Text: "Caught as a slip of the keys for ubd: the log says so and nothing is configured.",
		apply: func(c *Config, s setting) string {
			c.Notes = append(c.Notes, s.word+" specified on command line is almost certainly a ubd -> udb TYPO")
			return ""
		}},

	{Name: "root", Form: Value, Show: "root=DEVICE",
		Text:  "The root filesystem's device: /dev/ubda, /dev/ubd0, ubda, /dev/ubda1, 98:0, UUID=…, LABEL=…, PARTUUID=… (behind it /PARTNROFF=N for the partition whose number is larger by N), PARTLABEL=…. The default is the first ubd.",
		apply: text(func(c *Config) *string { return &c.Root })},
	{Name: "rootfstype", Form: Value, Show: "rootfstype=TYPE",
		Text: "The root filesystem's type: ext4 (which is ext2 and ext3 too), or hostfs for a directory of the host, " +
			"which rootflags=/DIR names below that of hostfs=.",
		apply: text(func(c *Config) *string { return &c.RootType })},
	{Name: "rootflags", Form: Value, Show: "rootflags=OPTIONS",
		Text: "Mount options of the root filesystem, over those that its superblock has (tune2fs -o): " +
			"discard, noatime, nobarrier, commit=SECONDS, errors=remount-ro and what else ext4 takes. " +
			"A root that is no ext filesystem, or has a feature that is not supported, is named in the " +
			"log before the panic; one that can only be read is mounted read-only. " +
			"For a hostfs: the directory, uid=, gid= and remember.",
		apply: text(func(c *Config) *string { return &c.RootFlags })},
	{Name: "ro", Form: Word, Show: "ro",
		Text:  "Mount the root read-only, as by default; init mounts it for writing.",
		apply: func(c *Config, _ setting) string { c.RootWrite = false; return "" }},
	{Name: "rw", Form: Word, Show: "rw",
		Text:  "Mount the root for writing.",
		apply: func(c *Config, _ setting) string { c.RootWrite = true; return "" }},
	{Name: "rootwait", Form: Word, Show: "rootwait",
		Text:  "Wait until the root device is there: uml_mconsole can add it.",
		apply: func(c *Config, _ setting) string { c.RootWait, c.RootWaitLimit = true, 0; return "" }},
	{Name: "rootwait", Form: Value, Show: "rootwait=N",
		Text: "Wait for the root device, for N seconds at most.",
		apply: func(c *Config, s setting) string {
			c.RootWait = true
			return integer(&c.RootWaitLimit, s.value, 1, 1<<20)
		}},
	{Name: "rootdelay", Form: Value, Show: "rootdelay=N",
		Text:  "Seconds to wait before the root is mounted.",
		apply: func(c *Config, s setting) string { return integer(&c.RootDelay, s.value, 0, 3600) }},
	{Name: "ext4.cache", Form: Value, Show: "ext4.cache=N[K|M|G]",
		Text: "Bound of the metadata that each mounted ext4 filesystem keeps in memory, beside mem=, which counts the guest's. " +
			"The default is an eighth of mem=. File data is not cached: the host's page cache serves it.",
		apply: func(c *Config, s setting) string { return memory(&c.Ext4Cache, s.value, minCache) }},
	{Name: "initrd", Form: Value, Show: "initrd=FILE",
		Text: "Archives on the host that are unpacked into the first root: cpio in the form newc, several behind each other, each plain or compressed " +
			"by gzip, bzip2, lzma, xz, zstd or lz4 -l. Its /init, or what rdinit= names, runs in place of the root's init; where that is not there the root is mounted.",
		apply: text(func(c *Config) *string { return &c.Initrd })},
	{Name: "noinitrd", Form: Word, Show: "noinitrd",
		Text:  "Forgets an initrd= before it.",
		apply: func(c *Config, _ setting) string { c.Initrd = ""; return "" }},
	{Name: "rdinit", Form: Value, Show: "rdinit=PATH",
		Text:  "The program that initrd= is there for. The default is /init.",
		apply: text(func(c *Config) *string { return &c.RdInit })},
	{Name: "init", Form: Value, Show: "init=PATH",
		Text: "The first program, or a block device that begins with one (init=/dev/ubdd). Arguments before it on the line are dropped. The default is the first that is there of /sbin/init, /etc/init, " +
			"/bin/init and /bin/sh.",
		apply: func(c *Config, s setting) string {
			c.Init, c.Args = s.value, nil
			return ""
		}},

	{Name: "console", Form: Value, Show: "console=DEVICE",
		Text: "What /dev/console is and where the kernel's messages go: tty0 to tty15 or ttyS0 to ttyS63. The default is tty0, which is added to /proc/cmdline.",
		apply: func(c *Config, s setting) string {
			c.Console, _, _ = strings.Cut(s.value, ",")
			return ""
		}},
	{Name: "con", Form: Unit, Show: "conN=IN[,OUT]",
		Text: "The host's side of console N, 0 to 15; without N of every console that is not named: null, none, fd:NUMBER, " +
			"port:[ADDRESS:]NUMBER, pty, pts, tty:PATH or the path alone, or xterm (see CONSOLES in linux(1)); OUT alone may differ " +
			"from IN. The default is con0=fd:0,fd:1 and for the others xterm where DISPLAY is set, else null.",
		apply: consoleLine("con")},
	{Name: "ssl", Form: Unit, Show: "sslN=IN[,OUT]",
		Text:  "The host's side of serial line N, 0 to 63, in the words of conN=. The default is ssl=null.",
		apply: consoleLine("ssl")},
	{Name: "xterm", Form: Value, Show: "xterm=PROGRAM,TITLE SWITCH,EXEC SWITCH",
		Text: "What opens the window of an xterm line: PROGRAM, its switch for a title and its switch for a command. " +
			"The default is xterm,-T,-e.",
		apply: text(func(c *Config) *string { return &c.Xterm })},

	{Name: "umid", Form: Value, Show: "umid=NAME",
		Text:  "The machine's name, which is that of its directory below uml_dir=. The default is a random one.",
		apply: text(func(c *Config) *string { return &c.UMID })},
	{Name: "uml_dir", Form: Value, Show: "uml_dir=DIR",
		Text:  "Where the machine's directory is made; a ~ at its beginning is the home. The default is ~/.uml.",
		apply: text(func(c *Config) *string { return &c.UMLDir })},
	{Name: "hostname", Form: Value, Show: "hostname=NAME",
		Text: "The node name until the guest sets one.",
		apply: func(c *Config, s setting) string {
			if len(s.value) > 64 {
				return "a node name has at most 64 bytes"
			}
			c.HostName = s.value
			return ""
		}},

	{Name: "quiet", Form: Word, Show: "quiet",
		Text:  "Only messages of errors and worse reach the console (loglevel=4).",
		apply: func(c *Config, _ setting) string { c.LogLevel = 4; return "" }},
	{Name: "debug", Form: Word, Show: "debug",
		Text:  "Every message reaches the console (loglevel=10).",
		apply: func(c *Config, _ setting) string { c.LogLevel = 10; return "" }},
	{Name: "ignore_loglevel", Form: Word, Show: "ignore_loglevel",
		Text:  "Every message reaches the console, whatever else is said.",
		apply: func(c *Config, _ setting) string { c.EveryMessage = true; return "" }},
	{Name: "loglevel", Form: Value, Show: "loglevel=N",
		Text:  "Messages of a level below N reach the console, 0 to 15; 0 is as good as 1. The default is 7.",
		apply: func(c *Config, s setting) string { return integer(&c.LogLevel, s.value, 0, 15) }},
	{Name: "printk.time", Form: Value, Show: "printk.time=0|1",
		Text: "Whether the kernel's messages begin with the time on the console. The default is 0; dmesg shows it all the same.",
		apply: func(c *Config, s setting) string {
			switch s.value {
			case "1", "y", "Y":
				c.PrintTime = true
			case "0", "n", "N":
				c.PrintTime = false
			default:
				return "neither 0 nor 1"
			}
			return ""
		}},
	{Name: "panic", Form: Value, Show: "panic=N",
		Text:  "After a panic boot again in N seconds, at once if N is -1. The default 0 ends the process by SIGABRT.",
		apply: func(c *Config, s setting) string { return integer(&c.PanicTimeout, s.value, -1, 1<<31-1) }},
	{Name: "noreboot", Form: Word, Show: "noreboot",
		Text:  "End where the machine would boot again.",
		apply: func(c *Config, _ setting) string { c.NoReboot = true; return "" }},
	{Name: "seccomp", Form: Value, Show: "seccomp=on|auto|off",
		Text: "How system calls of the guest are caught: on and auto by seccomp, off by ptrace, which is slower.",
		apply: func(c *Config, s setting) string {
			switch s.value {
			case "on", "auto", "off":
				c.Intercept = s.value
				return ""
			}
			return "neither on, auto nor off"
		}},
	{Name: "platform", Form: Value, Show: "platform=auto|own|systrap|ptrace|kvm",
		Text: "What runs the guest's code and catches its system calls: own is this program's; systrap, ptrace and kvm are gVisor's, and kvm was never tested here. auto, the default, is ptrace with seccomp=off, else systrap, or own where the host lets systrap trace nothing, as the log says.",
		apply: func(c *Config, s setting) string {
			switch s.value {
			case "auto", "own", "systrap", "ptrace", "kvm":
				c.Platform = s.value
				return ""
			}
			return "neither auto, own, systrap, ptrace nor kvm"
		}},

	{Name: "vec", Form: Colon, Show: "vecN:transport=TRANSPORT,OPTION=VALUE,…",
		Text: "Network device N, which the guest has as vecN, down at first. TRANSPORT: tap, hybrid, raw, gre, l2tpv3, bess, fd, daemon, mcast or ucast; their options are in linux(1), NETWORK. " +
			"Of all: mac=XX:XX:XX:XX:XX:XX; mtu=BYTES (1500); depth=PACKETS in one system call (64); vec=0 for one; gro=1 leaves checksums and segmentation " +
			"of TCP to the other side and takes such frames; headroom=BYTES before a packet (32). What is wrong is named in the log, and the device is missing.",
		apply: vector},
	{Name: "eth", Form: Unit, Show: "ethN=TRANSPORT,…",
		Text: "Network device N in the words of older kernels, which the guest has as ethN: tuntap,IFACE,MAC; daemon,MAC,unix,SOCKET; mcast,MAC,ADDRESS,PORT,TTL; " +
			"ucast,MAC,ADDRESS,PORT,REMOTEPORT. Empty fields have their defaults. The log says which vecN:… is the same.",
		apply: func(c *Config, s setting) string {
			if s.unit == "" || !number(s.unit) {
				c.foreign(s.word)
				return ""
			}
			return device("eth")(c, s)
		}},
	{Name: "ip", Form: Value, Show: "ip=…",
		Text: "Addresses for a network device. In this version the guest configures its interfaces itself: the log says so.",
		Note: "the guest configures its interfaces itself in this version"},
	{Name: "hostfs", Form: Value, Show: "hostfs=DIR[,append]",
		Text: "Confines every mount of a hostfs to the host's directory DIR and what is below; without it the guest's root may mount any directory " +
			"of the host. With append files may only grow: what is written goes to the end, and nothing is shortened or removed.",
		apply: hostDir},
	{Name: "mconsole", Form: Value, Show: "mconsole=notify:SOCKET",
		Text: "A Unix datagram socket that is told where the management console is (type 0), of a panic (1), and what the guest writes to /proc/mconsole (3). " +
			"A hang, type 2, no kernel tells of.",
		apply: func(c *Config, s setting) string {
			path, ok := strings.CutPrefix(s.value, "notify:")
			if !ok || path == "" {
				return "not of the form notify:SOCKET"
			}
			c.Notify = path
			return ""
		}},
	{Name: "dtb", Form: Value, Show: "dtb=FILE",
		Text: "A flattened device tree, as dtc makes it. The guest has it in /proc/device-tree, /sys/firmware/devicetree/base and /sys/firmware/fdt, " +
			"and drivers look for their nodes in it: one that is compatible with umlkit,hwrng is what hwrng= is.",
		apply: text(func(c *Config) *string { return &c.DTB })},
	{Name: "hwrng", Form: Value, Show: "hwrng=FILE[,RATE]",
		Text: "The hardware random number generator /dev/hwrng gives what FILE on the host does, /dev/urandom for one: at most RATE bytes a second, " +
			"a number with K or M for a unit. The default is no generator, and no bound.",
		apply: device("hwrng")},
	{Name: "strace", Form: Value, Show: "strace=TASKS[:CALLS]",
		Text: "Logs system calls of the guest. TASKS: all, numbers of processes with a comma between them, or comm:NAME for those that are called so. " +
			"CALLS: names with a comma between them, the default is every call. In place of the kernel log, which is given a bounded number a second " +
			"(dmesg shows them, the console does not), strace.file= takes them. uml_mconsole changes it while the guest runs: config strace=all:execve.",
		apply: text(func(c *Config) *string { return &c.Strace })},
	{Name: "strace.file", Form: Value, Show: "strace.file=FILE",
		Text:  "The file on the host that takes what strace= logs. It is written anew, and ends at 1 GiB.",
		apply: text(func(c *Config) *string { return &c.StraceFile })},
	{Name: "time-travel", Form: Prefix, Show: "time-travel[=…]",
		Text: "Virtual time. Refused: the guest's clock follows the host's.",
		apply: func(*Config, setting) string {
			return "virtual time is not supported: the guest's clock follows the host's (docs/limits.md)"
		}},
	{Name: "systemd.", Form: Prefix, Show: "systemd.*",
		Text:  "Left to systemd, which reads it in /proc/cmdline.",
		apply: func(*Config, setting) string { return "" }},
	{Name: "sysctl.", Form: Prefix, Show: "sysctl.NAME=VALUE",
		Text:  "Written to the file NAME below /proc/sys, dots for slashes, before init starts. One that is not there or does not take the value is named in the log.",
		apply: sysctl},
	{Name: "sysctl/", Form: Prefix, Show: "sysctl/NAME=VALUE",
		Text:  "The same with slashes in NAME.",
		apply: sysctl},

	{Name: "aio", Form: Value, Show: "aio=…", Text: "Taken for old command lines' sake.", Note: obsolete},
	{Name: "fake_ide", Form: Word, Show: "fake_ide", Text: "Taken for old command lines' sake.", Note: obsolete},
	{Name: "nosysemu", Form: Word, Show: "nosysemu", Text: "Taken for old command lines' sake.", Note: obsolete},
	{Name: "mode", Form: Value, Show: "mode=…", Text: "Taken for old command lines' sake.", Note: obsolete},
	{Name: "skas0", Form: Word, Show: "skas0", Text: "Taken for old command lines' sake.", Note: obsolete},
	{Name: "elevator", Form: Value, Show: "elevator=…", Text: "Taken for old command lines' sake.", Note: obsolete},
	{Name: "ssl-non-raw", Form: Word, Show: "ssl-non-raw",
		Text: "Taken for old command lines' sake: the host's side of a serial line is raw while it is read.", Note: "without effect: the host's side of a serial line is raw while it is read"},

	{Name: "--help", Form: Word, Show: "--help",
		Text:  "Print this list and end.",
		apply: func(c *Config, _ setting) string { c.Action = Help; return "" }},
	{Name: JoinOption, Form: Prefix, Show: JoinOption + " SOCKET",
		Text: "What runs in the window of an xterm line: gives its terminal to the machine behind SOCKET until the line is closed. " +
			"The machine asks for it; the two words stand alone.",
		apply: func(c *Config, s setting) string {
			if len(c.Words) != 2 || c.Words[0] != JoinOption {
				return "takes one socket, and nothing else beside it"
			}
			c.Action, c.Socket = Join, c.Words[1]
			return ""
		}},
	{Name: "--version", Form: Word, Show: "--version",
		Text:  "Print the release and end.",
		apply: func(c *Config, _ setting) string { c.Action = Version; return "" }},
	{Name: "--showconfig", Form: Word, Show: "--showconfig",
		Text:  "Print what this kernel can do, as CONFIG_ lines of a real kernel, and what it was built with, and end.",
		apply: func(c *Config, _ setting) string { c.Action = ShowConfig; return "" }},
}

// JoinOption stands before the socket of a machine that asked for a window.
const JoinOption = "--join-window"

const obsolete = "obsolete, taken and without effect"

func text(field func(*Config) *string) func(*Config, setting) string {
	return func(c *Config, s setting) string {
		if s.value == "" {
			return "a value is missing after ="
		}
		*field(c) = s.value
		return ""
	}
}

func device(driver string) func(*Config, setting) string {
	return func(c *Config, s setting) string {
		c.Settings = append(c.Settings, Setting{Driver: driver, Unit: s.unit, Spec: s.value, Word: s.word})
		return ""
	}
}

// vector takes a device of the family vec. Words whose unit is no number are init's.
func vector(c *Config, s setting) string {
	switch {
	case !number(s.unit):
		c.foreign(s.word)
	case !strings.HasPrefix(s.word, "vec"+s.unit+":"):
		c.Notes = append(c.Notes, s.word+": vector_setup - Couldn't parse it: write vec"+s.unit+":"+s.value)
	default:
		return device("vec")(c, s)
	}
	return ""
}

func consoleLine(driver string) func(*Config, setting) string {
	add := device(driver)
	return func(c *Config, s setting) string {
		if !number(s.unit) {
			return fmt.Sprintf("%q is not the number of a console", s.unit)
		}
		return add(c, s)
	}
}

// sysctl takes a value for a file below /proc/sys.
func sysctl(c *Config, s setting) string {
	name, value, _ := strings.Cut(s.value, "=")
	if value = unquote(value); name == "" || value == "" {
		c.Notes = append(c.Notes, s.word+": not applied: write sysctl.NAME=VALUE")
		return ""
	}
	c.Sysctls = append(c.Sysctls, Sysctl{name, value})
	return ""
}

// hostDir takes the directory that hostfs is confined to. A comma may be in its name.
func hostDir(c *Config, s setting) string {
	dir, grow := strings.CutSuffix(s.value, ",append")
	if dir == "" {
		return "a directory is missing after ="
	}
	c.HostDir, c.HostAppend = dir, grow
	return ""
}

func integer(field *int, value string, low, high int) string {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		return fmt.Sprintf("%q is not a number from %d to %d", value, low, high)
	}
	*field = n
	return ""
}

// MinMemory is the least a guest gets, in bytes: below it nothing would run. MaxMemory
// is the most.
const (
	MinMemory = 4 << 20
	MaxMemory = 1 << 46
)

// minCache is 64 blocks, with which ext4 still works.
const minCache = 256 << 10

// Amount reads an amount of memory in the form of mem=, in bytes: a multiple of a page.
func Amount(value string) (n int64, err error) {
	if wrong := memory(&n, value, 4096); wrong != "" {
		return 0, errors.New(wrong)
	}
	return n, nil
}

func memory(field *int64, value string, least int64) string {
	digits, unit := value, int64(1)
	if value != "" {
		digits = value[:len(value)-1]
		switch value[len(value)-1] {
		case 'k', 'K':
			unit = 1 << 10
		case 'm', 'M':
			unit = 1 << 20
		case 'g', 'G':
			unit = 1 << 30
		default:
			digits = value
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > MaxMemory/unit {
		return fmt.Sprintf("%q is not an amount of memory; write bytes, or a number with K, M or G", value)
	}
	if int64(n)*unit < least {
		text := fmt.Sprintf("%dM", least>>20)
		if least < 1<<20 {
			text = fmt.Sprintf("%dK", least>>10)
		}
		return fmt.Sprintf("%q is too little memory; the least is %s", value, text)
	}
	*field = int64(n) * unit &^ 4095
	return ""
}
