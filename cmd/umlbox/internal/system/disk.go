package system

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/fstab"
	"golang.org/x/sys/unix"
)

// fstrimRange is struct fstrim_range of linux/fs.h.
type fstrimRange struct{ start, length, minimum uint64 }

// fitrim is FITRIM, _IOWR('X', 121, struct fstrim_range).
const fitrim = 0xc0185879

// Fstrim gives the unused blocks of a file system back.
func Fstrim(e *applet.Env, args []string) error {
	var all, verbose bool
	r := fstrimRange{length: 1<<64 - 1}
	size := func(p *uint64) func(string) error {
		return func(s string) error {
			n, err := applet.Size(s)
			*p = uint64(n)
			return err
		}
	}
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.Bool(&verbose, 'v', "verbose")
	o.Value('o', "offset", size(&r.start))
	o.Value('l', "length", size(&r.length))
	o.Value('m', "minimum", size(&r.minimum))
	dirs, err := o.Parse(args)
	if err != nil {
		return err
	}
	if all {
		mounts, err := fstab.Mounts()
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if strings.HasPrefix(m.Source, "/dev/") && !m.Has("ro") {
				dirs = append(dirs, m.Target)
			}
		}
	} else if len(dirs) != 1 {
		return applet.Usagef("one mount point is needed")
	}
	for _, dir := range dirs {
		f, err := os.Open(dir)
		if err != nil {
			e.Warn(err)
			continue
		}
		got := r
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&got)))
		f.Close()
		switch {
		case errno != 0 && all && (errno == unix.EOPNOTSUPP || errno == unix.ENOTTY):
		case errno != 0:
			e.Warnf("%s: the discard operation is not supported: %s", dir, applet.Reason(errno))
		case verbose:
			fmt.Fprintf(e.Stdout, "%s: %s (%d bytes) trimmed\n", dir, file.Human(int64(got.length), 1024), got.length)
		}
	}
	return nil
}

// Swapon lets the kernel swap.
func Swapon(e *applet.Env, args []string) error {
	var all, show bool
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.Bool(&show, 's', "summary")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if show || !all && len(names) == 0 {
		b, err := os.ReadFile("/proc/swaps")
		e.Stdout.Write(b)
		return err
	}
	if names, err = swapTable(all, names); err != nil {
		return err
	}
	for _, name := range names {
		e.Warn(SwapOn(name))
	}
	return nil
}

// Swapoff ends swapping.
func Swapoff(e *applet.Env, args []string) error {
	var all bool
	var o applet.Options
	o.Bool(&all, 'a', "all")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 && !all {
		return applet.Usagef("missing operand")
	}
	if all {
		b, err := os.ReadFile("/proc/swaps")
		if err != nil {
			return err
		}
		for i, line := range slices.Collect(strings.Lines(string(b))) {
			if f := strings.Fields(line); i > 0 && len(f) > 0 {
				names = append(names, f[0])
			}
		}
	}
	for _, name := range names {
		path, err := Device(name)
		if err != nil {
			e.Warn(err)
			continue
		}
		p, err := unix.BytePtrFromString(path)
		if err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
			e.Warnf("%s: %s", path, applet.Reason(errno))
		}
	}
	return nil
}

// swapTable adds the swap entries of /etc/fstab to names.
func swapTable(all bool, names []string) ([]string, error) {
	if !all {
		return names, nil
	}
	table, err := fstab.Load("/etc/fstab")
	for _, m := range table {
		if m.Type == "swap" && !m.Has("noauto") {
			names = append(names, m.Source)
		}
	}
	return names, err
}

// Findfs finds the device with a label or UUID.
func Findfs(e *applet.Env, args []string) error {
	var o applet.Options
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return applet.Usagef("one LABEL= or UUID= is needed")
	}
	path, err := Device(names[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(e.Stdout, path)
	return nil
}

// Blockdev asks block devices.
func Blockdev(e *applet.Env, args []string) error {
	if len(args) == 1 && args[0] == "--help" {
		_, err := new(applet.Options).Parse(args)
		return err
	}
	if len(args) < 2 || !strings.HasPrefix(args[0], "--") {
		return applet.Usagef("a command and a device are needed")
	}
	var commands []string
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		commands, args = append(commands, args[0][2:]), args[1:]
	}
	for _, path := range args {
		f, err := os.Open(path)
		if err != nil {
			e.Warn(err)
			continue
		}
		for _, c := range commands {
			n, shown, err := blockCommand(f, c)
			var usage *applet.UsageError
			switch {
			case asUsage(err, &usage):
				f.Close()
				return err
			case err != nil:
				e.Warnf("%s: %s: %s", path, c, applet.Reason(err))
			case shown:
				fmt.Fprintln(e.Stdout, n)
			}
		}
		f.Close()
	}
	return nil
}

func asUsage(err error, u **applet.UsageError) (ok bool) {
	*u, ok = err.(*applet.UsageError)
	return ok
}

func blockCommand(f *os.File, command string) (n int64, shown bool, err error) {
	ask := func(request uint) (int64, bool, error) {
		n, err := unix.IoctlGetInt(int(f.Fd()), request)
		return int64(int32(n)), true, err
	}
	size := func() (int64, error) {
		n, err := f.Seek(0, io.SeekEnd)
		return n, err
	}
	switch command {
	case "getsize64":
		n, err = size()
		return n, true, err
	case "getsz", "getsize":
		n, err = size()
		return n / 512, true, err
	case "getss":
		return ask(unix.BLKSSZGET)
	case "getpbsz":
		return ask(unix.BLKPBSZGET)
	case "getbsz":
		return ask(unix.BLKBSZGET)
	case "getro":
		return ask(unix.BLKROGET)
	case "flushbufs":
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKFLSBUF, 0)
		if errno != 0 {
			err = errno
		}
		return 0, false, err
	case "rereadpt":
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKRRPART, 0)
		if errno != 0 {
			err = errno
		}
		return 0, false, err
	case "setro", "setrw":
		v := 0
		if command == "setro" {
			v = 1
		}
		return 0, false, unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, v)
	}
	return 0, false, applet.Usagef("unknown command --%s", command)
}

// Lsblk lists block devices.
func Lsblk(e *applet.Env, args []string) error {
	var bytesWanted, noHead bool
	var o applet.Options
	o.Bool(&bytesWanted, 'b', "bytes")
	o.Bool(&noHead, 'n', "noheadings")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return err
	}
	mounts, err := fstab.Mounts()
	if err != nil {
		return err
	}
	var rows [][]string
	if !noHead {
		rows = append(rows, []string{"NAME", "MAJ:MIN", "SIZE", "RO", "TYPE", "MOUNTPOINT"})
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] == "major" {
			continue
		}
		kb, _ := strconv.ParseInt(f[2], 10, 64)
		size := file.Human(kb*1024, 1024)
		if bytesWanted {
			size = strconv.FormatInt(kb*1024, 10)
		}
		name, kind := f[3], "disk"
		sys := "/sys/class/block/" + name
		if _, err := os.Stat(sys + "/partition"); err == nil {
			kind = "part"
		} else if strings.HasPrefix(name, "loop") {
			kind = "loop"
		}
		ro := "0"
		if b, err := os.ReadFile(sys + "/ro"); err == nil {
			ro = strings.TrimSpace(string(b))
		}
		at := ""
		for _, m := range mounts {
			var st unix.Stat_t
			if m.Source == "/dev/"+name || unix.Stat(m.Target, &st) == nil &&
				fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))) == f[0]+":"+f[1] {
				at = m.Target
				break
			}
		}
		rows = append(rows, []string{name, f[0] + ":" + f[1], size, ro, kind, at})
	}
	widths := make([]int, 6)
	for _, r := range rows {
		for i := range r {
			widths[i] = max(widths[i], len(r[i]))
		}
	}
	for _, r := range rows {
		text := fmt.Sprintf("%-*s %*s %*s %*s %-*s %s", widths[0], r[0], widths[1], r[1], widths[2], r[2], widths[3], r[3], widths[4], r[4], r[5])
		fmt.Fprintln(e.Stdout, strings.TrimRight(text, " "))
	}
	return nil
}

// Losetup shows and sets up loop devices.
func Losetup(e *applet.Env, args []string) error {
	var all, find, show, readOnly, partitions bool
	var detach string
	var offset int64
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.Bool(&find, 'f', "find")
	o.Bool(&show, 0, "show")
	o.Bool(&readOnly, 'r', "read-only")
	o.Bool(&partitions, 'P', "partscan")
	o.String(&detach, 'd', "detach")
	o.Value('o', "offset", func(s string) (err error) { offset, err = applet.Size(s); return err })
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	switch {
	case detach != "":
		f, err := os.Open(detach)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
			return fmt.Errorf("%s: detach failed: %s", detach, applet.Reason(err))
		}
		return nil
	case all || len(operands) == 0 && !find:
		return listLoops(e)
	}
	device := ""
	if find {
		if device, err = freeLoop(); err != nil {
			return err
		}
		if len(operands) == 0 {
			fmt.Fprintln(e.Stdout, device)
			return nil
		}
	} else {
		device, operands = operands[0], operands[1:]
		if len(operands) == 0 {
			return showLoop(e, device, true)
		}
	}
	if len(operands) != 1 {
		return applet.Usagef("one file is needed")
	}
	if err := attach(device, operands[0], offset, readOnly, partitions); err != nil {
		return err
	}
	if show {
		fmt.Fprintln(e.Stdout, device)
	}
	return nil
}

func freeLoop() (string, error) {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	n, err := unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("no free loop device: %s", applet.Reason(err))
	}
	return "/dev/loop" + strconv.Itoa(n), nil
}

func attach(device, path string, offset int64, readOnly, partitions bool) error {
	mode, flags := os.O_RDWR, uint32(0)
	if readOnly {
		mode, flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	if partitions {
		flags |= unix.LO_FLAGS_PARTSCAN
	}
	back, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return err
	}
	defer back.Close()
	dev, err := os.OpenFile(device, mode, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	config := unix.LoopConfig{Fd: uint32(back.Fd())}
	config.Info.Offset, config.Info.Flags = uint64(offset), flags
	if abs, err := filepath.Abs(path); err == nil {
		copy(config.Info.File_name[:len(config.Info.File_name)-1], abs)
	}
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		return fmt.Errorf("%s: failed to set up loop device: %s", path, applet.Reason(err))
	}
	return nil
}

func listLoops(e *applet.Env) error {
	paths, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := showLoop(e, p, false); err != nil {
			return err
		}
	}
	return nil
}

// showLoop describes a loop device. One that is free is passed over, unless
// it was asked for by name.
func showLoop(e *applet.Env, path string, named bool) error {
	f, err := os.Open(path)
	if err != nil {
		if named {
			return err
		}
		return nil
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		if named {
			return &os.PathError{Op: "status", Path: path, Err: err}
		}
		return nil
	}
	name, _, _ := bytes.Cut(info.File_name[:], []byte{0})
	if b, err := os.ReadFile("/sys/class/block/" + filepath.Base(path) + "/loop/backing_file"); err == nil {
		name = bytes.TrimSpace(b)
	}
	fmt.Fprintf(e.Stdout, "%s: [%04x]:%d (%s)", path, info.Device, info.Inode, name)
	if info.Offset > 0 {
		fmt.Fprintf(e.Stdout, ", offset %d", info.Offset)
	}
	e.Stdout.WriteByte('\n')
	return nil
}
