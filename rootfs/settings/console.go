package settings

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// Consoles lets someone log in on the guest's terminals: on tty1, as the usual start
// line with con1=fd:0,fd:1 wants it, and on the console itself, which is con0 (a
// plain start has that on the terminal). When con0 is null, for messages only, nothing
// asks for a login there.
//
// It edits /etc/inittab where there is one, and enables getty units where systemd is
// installed.
type Consoles struct{}

func (Consoles) String() string { return "consoles" }

// Apply implements Setting.
func (Consoles) Apply(t *tree.Tree) error {
	if t.Exists("/etc/inittab") {
		err := edit(t, "/etc/inittab", 0o644, func(old []byte) ([]byte, error) { return setInittab(old, t), nil })
		if err != nil {
			return err
		}
	}
	return systemdConsoles(t)
}

// inittab lines: ID:RUNLEVELS:ACTION:PROCESS. Sysvinit ignores a process of more than
// 127 bytes.
const (
	sysvTTY0 = `0:2345:respawn:/bin/sh -c 'grep -q con0=null /proc/cmdline && exec sleep 9999d; exec %s --noclear 38400 tty0'`
	sysvTTY1 = `1:2345:respawn:%s --noclear 38400 tty1`
)

// setInittab adds what is missing to an inittab of sysvinit or of busybox.
func setInittab(old []byte, t *tree.Tree) []byte {
	getty := "/sbin/getty"
	if !t.Exists(getty) && t.Exists("/sbin/agetty") {
		getty = "/sbin/agetty"
	}
	all := lines(old)
	ids := map[string]bool{}
	served := map[string]bool{}
	sysv := false
	last := len(all)
	for i, line := range all {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		parts := strings.SplitN(line, ":", 4)
		if len(parts) < 4 {
			continue
		}
		id, action, process := parts[0], parts[2], parts[3]
		ids[id] = true
		sysv = sysv || action == "initdefault" || parts[1] != ""
		if action != "respawn" && action != "askfirst" {
			continue
		}
		if id == "" { // busybox: on the console
			served["console"] = true
		}
		for _, tty := range strings.FieldsFunc(id+" "+process, func(r rune) bool { return strings.ContainsRune(" \t'\";/", r) }) {
			switch tty {
			case "console", "tty0", "tty1":
				served[tty] = true
				last = i + 1
			}
		}
	}
	if !sysv {
		if served["console"] || served["tty0"] || served["tty1"] || len(all) == 0 {
			return old
		}
		return join(append(all, "console::respawn:"+getty+" 38400 console"))
	}
	if !served["tty1"] {
		all = slices.Insert(all, last, withID(fmt.Sprintf(sysvTTY1, getty), ids))
	}
	if !served["console"] && !served["tty0"] {
		all = slices.Insert(all, last, withID(fmt.Sprintf(sysvTTY0, getty), ids))
	}
	return join(all)
}

// withID gives an inittab line an id that is not taken: two lines of one id are an
// error to init.
func withID(line string, taken map[string]bool) string {
	id, rest, _ := strings.Cut(line, ":")
	for _, prefix := range []string{"", "c", "u", "t", "v"} {
		if !taken[prefix+id] {
			taken[prefix+id] = true
			return prefix + id + ":" + rest
		}
	}
	for n := 0; ; n++ {
		id := fmt.Sprintf("u%03d", n)
		if !taken[id] {
			taken[id] = true
			return id + ":" + rest
		}
	}
}

// consoleDropIn keeps a login prompt off a con0 that is for messages only.
const consoleDropIn = `[Service]
ExecCondition=/bin/sh -c '! grep -q con0=null /proc/cmdline'
`

// systemdConsoles enables getty@tty1 and console-getty, unless someone masked them.
func systemdConsoles(t *tree.Tree) error {
	units := ""
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if t.Exists(dir + "/getty@.service") {
			units = dir
			break
		}
	}
	if units == "" || !t.Exists("/lib/systemd/systemd") && !t.Exists("/usr/lib/systemd/systemd") {
		return nil
	}
	if err := enable(t, units+"/getty@.service", "getty.target", "getty@tty1.service"); err != nil {
		return err
	}
	if !t.Exists(units + "/console-getty.service") {
		return nil
	}
	if err := enable(t, units+"/console-getty.service", "getty.target", "console-getty.service"); err != nil {
		return err
	}
	const dropIn = "/etc/systemd/system/console-getty.service.d/con0.conf"
	return edit(t, dropIn, 0o644, func([]byte) ([]byte, error) { return []byte(consoleDropIn), nil })
}

// enable makes the link by which systemd starts a unit with a target. What is there
// already stays, masked units too.
func enable(t *tree.Tree, unit, target, name string) error {
	const etc = "/etc/systemd/system/"
	if mask, err := t.Lookup(etc+name, false); err == nil && mask.IsSymlink() && mask.Target == "/dev/null" {
		return nil
	}
	path := etc + target + ".wants/" + name
	switch _, err := t.Lookup(path, false); {
	case err == nil:
		return nil
	case !tree.Missing(err):
		return err
	}
	return t.Put(path, &tree.Node{Mode: unix.S_IFLNK | 0o777, Target: unit})
}
