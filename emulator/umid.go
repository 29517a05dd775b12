package emulator

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator/klog"
)

// maxUMID is the longest name of a machine, in bytes: the socket in its directory has
// to fit into a socket's address.
const maxUMID = 64

// umid is the machine's directory: <uml_dir>/<umid> with a file pid in it.
type umid struct {
	name string
	dir  string
}

// takeUMID makes the machine's directory. A name that is taken by a living machine
// gives way to a random one; a directory that a dead one left is taken over.
func (m *Machine) takeUMID() {
	base := m.config.UMLDir
	if base == "" {
		home := os.Getenv("HOME")
		if home == "" {
			m.printk(klog.Warning, "make_umid: no value in environment for $HOME")
			return
		}
		base = filepath.Join(home, ".uml")
	}
	if abs, err := filepath.Abs(base); err == nil {
		base = abs
	}
	if err := os.MkdirAll(base, 0o777); err != nil {
		m.printk(klog.Err, "Failed to mkdir '%s': %v", base, err)
		return
	}
	if name := m.config.UMID; name != "" {
		if len(name) > maxUMID || strings.Contains(name, "/") || strings.HasPrefix(name, ".") {
			m.printk(klog.Err, "umid \"%s\" is no name for a machine: at most %d bytes, no '/' and no '.' before", name, maxUMID)
		} else if m.umid = m.claimUMID(base, name); m.umid != nil {
			return
		}
	}
	for range 16 {
		if m.umid = m.claimUMID(base, randomName()); m.umid != nil {
			return
		}
	}
}

// claimUMID makes the directory for name, or returns nil and says why not.
func (m *Machine) claimUMID(base, name string) *umid {
	u := &umid{name: name, dir: filepath.Join(base, name)}
	err := os.Mkdir(u.dir, 0o777)
	if errors.Is(err, fs.ErrExist) {
		if pid := u.holder(); pid != 0 {
			m.printk(klog.Err, "umid \"%s\" is already in use by pid %d", name, pid)
			return nil
		}
		u.empty()
		err = nil
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(u.dir, "pid"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644)
	}
	if err != nil {
		m.printk(klog.Err, "umid \"%s\": %v", name, err)
		return nil
	}
	return u
}

// holder is the process that the directory belongs to, 0 if it is gone. A number that
// another program has by now is no machine's.
func (u *umid) holder() int {
	text, err := os.ReadFile(filepath.Join(u.dir, "pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 || pid == os.Getpid() {
		return 0
	}
	if err := unix.Kill(pid, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return 0
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err == nil {
		if ours, err := os.Readlink("/proc/self/exe"); err == nil && filepath.Base(theirs) != filepath.Base(ours) &&
			!strings.HasPrefix(filepath.Base(theirs), "linux") {
			return 0
		}
	}
	return pid
}

// empty removes what a machine leaves in its directory, and nothing else.
func (u *umid) empty() {
	for _, name := range []string{"pid", "mconsole"} {
		_ = os.Remove(filepath.Join(u.dir, name))
	}
}

// remove gives the directory up.
func (u *umid) remove() {
	if u != nil {
		u.empty()
		_ = os.Remove(u.dir)
	}
}

// randomName is six letters and digits.
func randomName() string {
	return strings.ToLower(rand.Text()[:6])
}
