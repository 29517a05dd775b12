// Package fstab reads tables of mounts: /etc/fstab and /proc/mounts, which
// have the same form (fstab(5)), and mount options as mount(8) spells them.
package fstab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is one mount.
type Entry struct {
	Source, Target, Type string
	Options              string // comma-separated, "defaults" when there is none
}

// Has says whether one of the entry's options is name.
func (e Entry) Has(name string) bool {
	return slices.Contains(strings.Split(e.Options, ","), name)
}

// Read parses a table. A line that is not an entry is an error that names it.
func Read(r io.Reader) ([]Entry, error) {
	var entries []Entry
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for n := 1; s.Scan(); n++ {
		f := strings.Fields(s.Text())
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		if len(f) < 3 {
			return entries, fmt.Errorf("line %d: %q has no file system type", n, s.Text())
		}
		e := Entry{unescape(f[0]), unescape(f[1]), unescape(f[2]), "defaults"}
		if len(f) > 3 {
			e.Options = unescape(f[3])
		}
		entries = append(entries, e)
	}
	return entries, s.Err()
}

// Load reads the table in a file.
func Load(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := Read(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return entries, err
}

// Mounts is what is mounted, in the order it was.
func Mounts() ([]Entry, error) { return Load("/proc/self/mounts") }

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// flags are the options that mount(2) takes as bits. off clears the bit.
var flags = [...]struct {
	name string
	bit  uintptr
	off  bool
}{
	{"ro", unix.MS_RDONLY, false}, {"rw", unix.MS_RDONLY, true},
	{"nosuid", unix.MS_NOSUID, false}, {"suid", unix.MS_NOSUID, true},
	{"nodev", unix.MS_NODEV, false}, {"dev", unix.MS_NODEV, true},
	{"noexec", unix.MS_NOEXEC, false}, {"exec", unix.MS_NOEXEC, true},
	{"sync", unix.MS_SYNCHRONOUS, false}, {"async", unix.MS_SYNCHRONOUS, true},
	{"dirsync", unix.MS_DIRSYNC, false}, {"remount", unix.MS_REMOUNT, false},
	{"mand", unix.MS_MANDLOCK, false}, {"nomand", unix.MS_MANDLOCK, true},
	{"noatime", unix.MS_NOATIME, false}, {"atime", unix.MS_NOATIME, true},
	{"nodiratime", unix.MS_NODIRATIME, false}, {"diratime", unix.MS_NODIRATIME, true},
	{"relatime", unix.MS_RELATIME, false}, {"norelatime", unix.MS_RELATIME, true},
	{"strictatime", unix.MS_STRICTATIME, false}, {"nostrictatime", unix.MS_STRICTATIME, true},
	{"lazytime", unix.MS_LAZYTIME, false}, {"nolazytime", unix.MS_LAZYTIME, true},
	{"bind", unix.MS_BIND, false}, {"rbind", unix.MS_BIND | unix.MS_REC, false}, {"move", unix.MS_MOVE, false},
	{"shared", unix.MS_SHARED, false}, {"rshared", unix.MS_SHARED | unix.MS_REC, false},
	{"private", unix.MS_PRIVATE, false}, {"rprivate", unix.MS_PRIVATE | unix.MS_REC, false},
	{"slave", unix.MS_SLAVE, false}, {"rslave", unix.MS_SLAVE | unix.MS_REC, false},
	{"unbindable", unix.MS_UNBINDABLE, false}, {"runbindable", unix.MS_UNBINDABLE | unix.MS_REC, false},
}

// userspace are options for mount(8) and init alone; no file system sees them.
var userspace = [...]string{
	"defaults", "auto", "noauto", "nofail", "fail", "user", "nouser", "users", "owner", "group", "_netdev",
}

// Flags splits options into the bits of mount(2) and the data for the file
// system. Options that only matter to user space are left out.
func Flags(options string) (bits uintptr, data string) {
	var rest []string
next:
	for opt := range strings.SplitSeq(options, ",") {
		if opt == "" || slices.Contains(userspace[:], opt) || strings.HasPrefix(opt, "x-") || strings.HasPrefix(opt, "comment=") {
			continue
		}
		for _, f := range flags {
			if f.name == opt {
				if f.off {
					bits &^= f.bit
				} else {
					bits |= f.bit
				}
				continue next
			}
		}
		rest = append(rest, opt)
	}
	return bits, strings.Join(rest, ",")
}
