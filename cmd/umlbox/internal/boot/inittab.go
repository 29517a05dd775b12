package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// entry is a line of /etc/inittab in busybox's form, terminal:ignored:action:command.
type entry struct {
	terminal string // below /dev; empty is the console
	action   string
	argv     []string

	pid   int       // while it runs
	begun time.Time // its last start
	quick int       // quick deaths in a row
	told  bool      // that it dies quickly
}

func (ent entry) same(other entry) bool {
	return ent.terminal == other.terminal && ent.action == other.action && slices.Equal(ent.argv, other.argv)
}

// actions are what a line can ask for.
var actions = [...]string{"sysinit", "wait", "once", "respawn", "askfirst", "ctrlaltdel", "shutdown", "restart"}

// defaultTable lets root in on the console.
func defaultTable() []entry {
	return []entry{{action: "respawn", argv: []string{self, "getty", "--console", "console"}}}
}

// loadInittab reads the table; without one there is a default. Lines that are
// wrong are named in the error, and the others are still returned.
func loadInittab(path string) ([]entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return defaultTable(), nil
	}
	if err != nil {
		return defaultTable(), err
	}
	defer f.Close()
	table, err := parseInittab(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	if len(table) == 0 {
		table = defaultTable()
	}
	return table, err
}

func parseInittab(r io.Reader) ([]entry, error) {
	var table []entry
	var wrong []error
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, ":", 4)
		switch {
		case len(f) < 4 || strings.TrimSpace(f[3]) == "":
			wrong = append(wrong, fmt.Errorf("line %d: %q is not terminal::action:command", n, line))
			continue
		case !slices.Contains(actions[:], f[2]):
			wrong = append(wrong, fmt.Errorf("line %d: unknown action %q", n, f[2]))
			continue
		}
		ent := entry{terminal: strings.TrimPrefix(f[0], "/dev/"), action: f[2], argv: words(strings.TrimSpace(f[3]))}
		table = append(table, ent)
	}
	if err := s.Err(); err != nil {
		wrong = append(wrong, err)
	}
	return table, errors.Join(wrong...)
}

// words splits a command; one that needs a shell gets it.
func words(command string) []string {
	if strings.ContainsAny(command, "~`!$^&*()=|\\{}[];\"'<>?") {
		return []string{self, "sh", "-c", command}
	}
	return strings.Fields(command)
}
