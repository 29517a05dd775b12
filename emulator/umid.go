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
	"time"

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
	lock *os.File // the directory, locked
}

// takeUMID makes the machine's directory. A name that is taken by a living machine
// gives way to a random one; a directory that a dead one left is taken over.
func (m *Machine) takeUMID() {
	base := m.config.UMLDir
	if base == "" {
		base = "~/.uml"
	}
	if rest, ok := strings.CutPrefix(base, "~"); ok && (rest == "" || rest[0] == '/') {
		// A shell leaves the tilde in uml_dir=~/dir.
		home := os.Getenv("HOME")
		if home == "" {
			m.printk(klog.Warning, "make_umid: no value in environment for $HOME")
			return
		}
		base = filepath.Join(home, rest)
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
		} else if m.umid, _ = m.claimUMID(base, name); m.umid != nil {
			return
		}
	}
	for range 16 {
		var taken bool
		if m.umid, taken = m.claimUMID(base, randomName()); !taken {
			return
		}
	}
}

// stubPatience is how long a directory may stay locked after its machine's process is
// gone: those that ran its guest's code hold the lock until the host has ended them.
const stubPatience = 5 * time.Second

// maxClaims is how often a directory is tried for that others remove meanwhile.
const maxClaims = 100

// claimUMID makes the directory for name, or returns nil and says why not: whether another
// has it. The directory
// is locked for as long as a machine of ours has it; other kernels know of its pid alone.
func (m *Machine) claimUMID(base, name string) (u *umid, taken bool) {
	u = &umid{name: name, dir: filepath.Join(base, name)}
	pid, err := u.claim()
	for n := 0; n < maxClaims && errors.Is(err, fs.ErrNotExist); n++ {
		// Its last machine removed it just now.
		u.unlock()
		pid, err = u.claim()
	}
	switch {
	case err == nil && pid == 0:
		return u, false
	case err == nil:
		m.printk(klog.Err, "umid \"%s\" is already in use by pid %d", name, pid)
	default:
		m.printk(klog.Err, "umid \"%s\": %v", name, err)
	}
	u.unlock()
	return nil, err == nil
}

// claim makes the directory, or takes over one that nobody has any more. It returns the
// process that has it otherwise.
func (u *umid) claim() (pid int, err error) {
	err = os.Mkdir(u.dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, err
	}
	fd, err := unix.Open(u.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", u.dir, err)
	}
	u.lock = os.NewFile(uintptr(fd), u.dir)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", u.dir, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("%s belongs to user %d", u.dir, st.Uid)
	}
	for deadline := time.Now().Add(stubPatience); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		pid = u.holder()
		if pid != 0 {
			return pid, nil
		}
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return 0, fmt.Errorf("lock %s: %w", u.dir, err)
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%s is locked by a process that is not known", u.dir)
		}
	}
	// Between the opening and the lock its last machine may have removed it, and another
	// have made its own in its place.
	var now unix.Stat_t
	if err := unix.Lstat(u.dir, &now); err != nil {
		return 0, fmt.Errorf("%s: %w", u.dir, err)
	}
	if now.Dev != st.Dev || now.Ino != st.Ino {
		return 0, fmt.Errorf("%s: %w", u.dir, fs.ErrNotExist)
	}
	if err := unix.Fchmod(fd, 0o700); err != nil {
		return 0, fmt.Errorf("%s: %w", u.dir, err)
	}
	u.empty()
	f, err := os.OpenFile(filepath.Join(u.dir, "pid"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return 0, errors.Join(err, f.Close())
}

// unlock lets others have the directory.
func (u *umid) unlock() {
	if u.lock != nil {
		u.lock.Close()
	}
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
	if errors.Is(err, fs.ErrNotExist) {
		return 0 // it is dead, and its parent has not asked after it
	}
	if err == nil {
		program := func(exe string) string { return strings.TrimSuffix(filepath.Base(exe), " (deleted)") }
		if ours, err := os.Readlink("/proc/self/exe"); err == nil && program(theirs) != program(ours) &&
			!strings.HasPrefix(program(theirs), "linux") {
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
		u.unlock()
	}
}

// randomName is six letters and digits.
func randomName() string {
	return strings.ToLower(rand.Text()[:6])
}
