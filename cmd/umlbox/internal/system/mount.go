// Package system holds the applets that look at the machine and steer it:
// mounts, processes, memory, the clock, power.
package system

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/fstab"
	"golang.org/x/sys/unix"
)

// Mount shows the mounts, or mounts a file system.
func Mount(e *applet.Env, args []string) error {
	var all bool
	var kind string
	var options []string
	add := func(opt string) func() { return func() { options = append(options, opt) } }
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.String(&kind, 't', "types")
	o.Value('o', "options", func(s string) error { options = append(options, s); return nil })
	o.Func('r', "read-only", add("ro"))
	o.Func('w', "rw", add("rw"))
	o.Func('B', "bind", add("bind"))
	o.Func('R', "rbind", add("rbind"))
	o.Func('M', "move", add("move"))
	for _, p := range []string{"shared", "private", "slave", "unbindable"} {
		o.Func(0, "make-"+p, add(p))
		o.Func(0, "make-r"+p, add("r"+p))
	}
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	opts := strings.Join(options, ",")
	switch {
	case all && len(operands) > 0:
		return applet.Usagef("unexpected operand %s with -a", applet.Quote(operands[0]))
	case all:
		return mountAll(e, kind, opts)
	}
	switch len(operands) {
	case 0:
		return showMounts(e, kind)
	case 1:
		m, err := complete(operands[0], opts)
		if err != nil {
			return err
		}
		return Do(m.Source, m.Target, cmp.Or(kind, m.Type), m.Options)
	case 2:
		return Do(operands[0], operands[1], kind, opts)
	}
	return applet.Usagef("unexpected operand %s", applet.Quote(operands[2]))
}

func showMounts(e *applet.Env, kind string) error {
	mounts, err := fstab.Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if kind == "" || slices.Contains(strings.Split(kind, ","), m.Type) {
			fmt.Fprintf(e.Stdout, "%s on %s type %s (%s)\n", m.Source, m.Target, m.Type, m.Options)
		}
	}
	return nil
}

func mountAll(e *applet.Env, kind, opts string) error {
	table, err := fstab.Load("/etc/fstab")
	if err != nil {
		return err
	}
	mounted, err := fstab.Mounts()
	if err != nil {
		return err
	}
	for _, m := range table {
		if m.Has("noauto") || m.Type == "swap" || kind != "" && m.Type != kind ||
			slices.ContainsFunc(mounted, func(x fstab.Entry) bool { return x.Target == m.Target }) {
			continue
		}
		if err := Do(m.Source, m.Target, m.Type, join(m.Options, opts)); err != nil && !m.Has("nofail") {
			e.Warn(err)
		}
	}
	return nil
}

// complete makes the mount that operand, its source or its target, and opts
// mean from the tables.
func complete(operand, opts string) (fstab.Entry, error) {
	bits, _ := fstab.Flags(opts)
	find := func(table []fstab.Entry) (fstab.Entry, bool) {
		for _, m := range slices.Backward(table) {
			if m.Target == operand || m.Source == operand {
				return m, true
			}
		}
		return fstab.Entry{}, false
	}
	switch {
	case bits&propagation != 0:
		return fstab.Entry{Source: "none", Target: operand, Options: opts}, nil
	case bits&unix.MS_REMOUNT != 0:
		now, err := fstab.Mounts()
		if err != nil {
			return fstab.Entry{}, err
		}
		m, ok := find(now)
		if !ok {
			return m, fmt.Errorf("%s: not mounted", operand)
		}
		// The file system keeps its own options; the kernel would forget the
		// flags that are not repeated.
		var keep []string
		for opt := range strings.SplitSeq(m.Options, ",") {
			if _, data := fstab.Flags(opt); data == "" {
				keep = append(keep, opt)
			}
		}
		m.Options = join(strings.Join(keep, ","), opts)
		return m, nil
	}
	table, err := fstab.Load("/etc/fstab")
	if err != nil {
		return fstab.Entry{}, err
	}
	m, ok := find(table)
	if !ok {
		return m, fmt.Errorf("%s: not in /etc/fstab", operand)
	}
	m.Options = join(m.Options, opts)
	return m, nil
}

const propagation = unix.MS_SHARED | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_UNBINDABLE

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// Do mounts source on target with options as mount(8) takes them. Without a
// kind it tries the types that the kernel offers for a block device.
func Do(source, target, kind, options string) error {
	bits, data := fstab.Flags(options)
	what := func(err error) error {
		return fmt.Errorf("mounting %s on %s failed: %s", source, target, applet.Reason(err))
	}
	const noType = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_MOVE | propagation
	source, err := Device(source)
	if err != nil {
		return err
	}
	if kind != "" && kind != "auto" || bits&noType != 0 {
		if err := unix.Mount(source, target, kind, bits, data); err != nil {
			return what(err)
		}
		// The kernel ignores other flags when it binds; they need a remount.
		if bits&unix.MS_BIND != 0 && bits&^(unix.MS_BIND|unix.MS_REC|unix.MS_REMOUNT) != 0 && bits&unix.MS_REMOUNT == 0 {
			if err := unix.Mount(source, target, kind, bits|unix.MS_REMOUNT, data); err != nil {
				return what(err)
			}
		}
		return nil
	}
	types, err := diskTypes()
	if err != nil {
		return err
	}
	err = unix.ENODEV
	for _, t := range types {
		terr := unix.Mount(source, target, t, bits, data)
		if terr == nil {
			return nil
		}
		if terr != unix.EINVAL { // EINVAL: no superblock of that type
			err = terr
			break
		}
		err = terr
	}
	return what(err)
}

// diskTypes lists the file systems that live on a block device.
func diskTypes() ([]string, error) {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return nil, err
	}
	var types []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 1 {
			types = append(types, f[0])
		}
	}
	// ext2's driver would take ext4 images it can; the newest knows them all.
	slices.SortStableFunc(types, func(a, b string) int {
		rank := func(s string) int {
			if s == "ext4" {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	return types, nil
}

// Umount unmounts file systems.
func Umount(e *applet.Env, args []string) error {
	var all, lazy, force, readonly bool
	var kind string
	var o applet.Options
	o.Bool(&all, 'a', "all")
	o.Bool(&lazy, 'l', "lazy")
	o.Bool(&force, 'f', "force")
	o.Bool(&readonly, 'r', "read-only")
	o.String(&kind, 't', "types")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	mounts, merr := fstab.Mounts() // without /proc the targets must be named
	flags := 0
	if lazy {
		flags |= unix.MNT_DETACH
	}
	if force {
		flags |= unix.MNT_FORCE
	}
	switch {
	case all && merr != nil:
		return merr
	case all:
		names = names[:0]
		for _, m := range slices.Backward(mounts) {
			if kind == "" && !pseudo(m.Type) && m.Target != "/" || kind != "" && m.Type == kind {
				names = append(names, m.Target)
			}
		}
	case len(names) == 0:
		return applet.Usagef("missing operand")
	}
	for _, name := range names {
		target := name
		abs, err := filepath.Abs(name)
		if err == nil {
			for _, m := range slices.Backward(mounts) {
				if m.Target == abs || m.Source == abs || m.Source == name {
					target = m.Target
					break
				}
			}
		}
		err = unix.Unmount(target, flags)
		if err == unix.EBUSY && readonly {
			err = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
		switch err {
		case nil:
		case unix.EINVAL:
			e.Warnf("%s: not mounted", name)
		case unix.EBUSY:
			e.Warnf("%s: target is busy", name)
		default:
			e.Warnf("%s: %s", name, applet.Reason(err))
		}
	}
	return nil
}

// pseudo are the types that umount -a leaves: the system needs them.
func pseudo(kind string) bool {
	switch kind {
	case "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "rootfs":
		return true
	}
	return false
}
