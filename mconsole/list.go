package mconsole

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// State says what became of a machine that has a directory.
type State string

const (
	// Running machines answer.
	Running State = "running"
	// Silent machines have a process and do not answer, or not yet.
	Silent State = "silent"
	// Stale directories were left by a machine that is gone.
	Stale State = "stale"
)

// Machine is a directory of a machine.
type Machine struct {
	UMID string `json:"umid"`
	// PID is what the file pid says, 0 without one.
	PID       int    `json:"pid"`
	State     State  `json:"state"`
	Directory string `json:"directory"`
	Socket    string `json:"socket"`
	// Version is what a running machine answers to version.
	Version string `json:"version,omitempty"`
}

// atOnce is how many machines are asked at a time.
const atOnce = 32

// Discover finds the machines of this user by their directories: those below dirs, and
// wherever else this host has a socket of that name. They come in the order of their
// umids; none has been asked, and State is empty.
func Discover(dirs ...string) []Machine {
	var found []Machine
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	add := func(dir string) {
		var st unix.Stat_t
		// A link leads to a directory that has its own name somewhere.
		if unix.Lstat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || seen[inode{uint64(st.Dev), st.Ino}] {
			return
		}
		m := Machine{UMID: filepath.Base(dir), Directory: dir, Socket: filepath.Join(dir, "mconsole")}
		m.PID = readPID(filepath.Join(dir, "pid"))
		if info, err := os.Lstat(m.Socket); m.PID == 0 && (err != nil || info.Mode()&os.ModeSocket == 0) {
			return
		}
		seen[inode{uint64(st.Dev), st.Ino}] = true
		found = append(found, m)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			add(filepath.Join(dir, e.Name()))
		}
	}
	if f, err := os.Open("/proc/net/unix"); err == nil {
		for _, dir := range boundDirectories(f) {
			add(dir)
		}
		f.Close()
	}
	slices.SortFunc(found, func(a, b Machine) int {
		return strings.Compare(a.UMID+"\x00"+a.Directory, b.UMID+"\x00"+b.Directory)
	})
	return found
}

// boundDirectories reads /proc/net/unix: the directories of sockets named mconsole.
func boundDirectories(r io.Reader) []string {
	var dirs []string
	for lines := bufio.NewScanner(r); lines.Scan(); {
		// The eighth column is the path, and the last: it may hold blanks.
		line := lines.Text()
		at := strings.Index(line, " /")
		if at < 0 {
			continue
		}
		if dir, name := filepath.Split(line[at+1:]); name == "mconsole" {
			dirs = append(dirs, filepath.Clean(dir))
		}
	}
	return dirs
}

// readPID is the process that a file names, 0 for none.
func readPID(name string) int {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0
	}
	return pid
}

// Ask fills in the state and the version of machines. Each is asked with the client's
// time limit, all of them at once.
func (c Client) Ask(ctx context.Context, machines []Machine) {
	var wg sync.WaitGroup
	turns := make(chan struct{}, atOnce)
	for i := range machines {
		wg.Add(1)
		turns <- struct{}{}
		go func(m *Machine) {
			defer func() { <-turns; wg.Done() }()
			client := Client{Socket: m.Socket, Timeout: c.Timeout}
			var text strings.Builder
			_, err := client.Command(ctx, "version", func(r Reply) error {
				if text.Len() < MaxData {
					text.Write(r.Data)
				}
				return nil
			})
			switch {
			case err == nil:
				m.State, m.Version = Running, text.String()
			case errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) && !alive(m.PID):
				m.State = Stale
			default:
				m.State = Silent
			}
		}(&machines[i])
	}
	wg.Wait()
}

// alive reports whether a process runs.
func alive(pid int) bool {
	return pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
