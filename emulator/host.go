package emulator

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostName is what uname(2) says of the host, in one line.
func hostName() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "Linux"
	}
	var words []string
	for _, field := range [][]byte{u.Sysname[:], u.Nodename[:], u.Release[:], u.Version[:], u.Machine[:]} {
		words = append(words, unix.ByteSliceToString(field))
	}
	return strings.Join(words, " ")
}

// bogomips is the host's number of the same name: guest code runs as fast as any.
func bogomips() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for _, line := range strings.Split(string(text), "\n") {
			name, value, ok := strings.Cut(line, ":")
			if ok && strings.EqualFold(strings.TrimSpace(name), "bogomips") {
				return strings.TrimSpace(value)
			}
		}
	}
	return "0.00"
}

// sortFilesystems orders the lines of /proc/filesystems: those without a device, then
// the others.
func sortFilesystems(lines []string) {
	slices.SortFunc(lines, func(a, b string) int {
		if nodevA, nodevB := strings.HasPrefix(a, "nodev"), strings.HasPrefix(b, "nodev"); nodevA != nodevB {
			if nodevA {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}
