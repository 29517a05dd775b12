package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/fstab"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/system"
	"golang.org/x/sys/unix"
)

// early are the mounts every Linux program expects. magic is the type that
// statfs(2) shows when it is already there.
var early = [...]struct {
	kind, target, options string
	magic                 int64
}{
	{"proc", "/proc", "nosuid,noexec,nodev", unix.PROC_SUPER_MAGIC},
	{"sysfs", "/sys", "nosuid,noexec,nodev", unix.SYSFS_MAGIC},
	{"devtmpfs", "/dev", "nosuid,mode=0755", unix.TMPFS_MAGIC},
	{"devpts", "/dev/pts", "nosuid,noexec,gid=5,mode=620,ptmxmode=666", unix.DEVPTS_SUPER_MAGIC},
	{"tmpfs", "/dev/shm", "nosuid,nodev,mode=1777", unix.TMPFS_MAGIC},
	{"tmpfs", "/run", "nosuid,nodev,mode=0755", unix.TMPFS_MAGIC},
}

// prepare makes the bare kernel a system: mounts, the host name, loopback.
// What fails is said and does not stop the boot.
func (in *initd) prepare() {
	os.Setenv("PATH", path())
	for i, m := range early {
		in.mountEarly(m.kind, m.target, m.options, m.magic)
		if i == 2 {
			in.openConsole()
		}
	}
	in.mountTable()
	in.hostname()
	loopbackUp()
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		fmt.Fprintf(in.e.Stdout, "\n%s: %s %s %s, umlbox\n", unix.ByteSliceToString(u.Nodename[:]),
			unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
		in.e.Stdout.Flush()
	}
}

func path() string {
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return defaultPath
}

func (in *initd) mountEarly(kind, target, options string, magic int64) {
	// The type alone does not tell a tmpfs on /run from a root that is one.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err == nil && int64(st.Type) == magic && mounted(target) {
		return
	}
	if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		in.say("%s is not mounted: %s", target, applet.Message(err))
		return
	}
	bits, data := fstab.Flags(options)
	err := unix.Mount(kind, target, kind, bits, data)
	if err == unix.EINVAL { // a kernel that lacks one of the options
		err = unix.Mount(kind, target, kind, bits, "")
	}
	if err != nil && err != unix.EBUSY {
		in.say("mounting %s on %s failed: %s", kind, target, applet.Reason(err))
	}
}

// mounted says whether dir is another file system than its parent.
func mounted(dir string) bool {
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(dir+"/..", &b) == nil && a.Dev != b.Dev
}

// openConsole gives us the console where the kernel could not: it opens
// descriptors 0 to 2 before there is a /dev.
func (in *initd) openConsole() {
	var null, zero unix.Stat_t
	if unix.Fstat(0, &zero) == nil {
		isNull := unix.Stat("/dev/null", &null) == nil && null.Rdev == zero.Rdev && zero.Mode&unix.S_IFMT == unix.S_IFCHR
		if !isNull {
			return
		}
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return // nowhere to say it
	}
	for i := range 3 {
		unix.Dup3(fd, i, 0)
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// mountTable does what /etc/fstab asks for.
func (in *initd) mountTable() {
	table, err := fstab.Load("/etc/fstab")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		in.say("%s", applet.Message(err))
	}
	for _, m := range table {
		var err error
		switch {
		case m.Has("noauto"):
			continue
		case m.Target == "/":
			err = remountRoot(m)
		case m.Type == "swap":
			err = system.SwapOn(m.Source)
		case mounted(m.Target):
			continue
		default:
			os.MkdirAll(m.Target, 0o755)
			err = system.Do(m.Source, m.Target, m.Type, m.Options)
		}
		if err != nil && !m.Has("nofail") {
			in.say("%v", err)
		}
	}
}

// remountRoot gives the root file system the options of its entry: the kernel
// mounts it read-only unless it is told otherwise.
func remountRoot(m fstab.Entry) error {
	bits, data := fstab.Flags(m.Options)
	err := unix.Mount(m.Source, "/", m.Type, bits|unix.MS_REMOUNT, data)
	if err != nil && data != "" {
		if unix.Mount(m.Source, "/", m.Type, bits|unix.MS_REMOUNT, "") == nil {
			return fmt.Errorf("/ does not take the options %q: %s", data, applet.Reason(err))
		}
	}
	if err != nil {
		return fmt.Errorf("remounting / failed: %s", applet.Reason(err))
	}
	return nil
}

func (in *initd) hostname() {
	b, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return // the kernel's own name stays
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := unix.Sethostname([]byte(line)); err != nil {
			in.say("host name %q: %s", line, applet.Reason(err))
		}
		return
	}
}

// loopbackUp brings lo up. A kernel without the ioctl has it up already.
func loopbackUp() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil || unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) != nil {
		return
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
