package filemode

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
)

func TestChange(t *testing.T) {
	for _, c := range []struct {
		text       string
		have, want uint32
	}{
		{"644", 0o100777, 0o644}, {"u+s", 0o100755, 0o4755}, {"a=rX", 0o100644, 0o444}, {"+X", 0o040600, 0o711},
		{"go=u", 0o100751, 0o777}, {"o=g,g=", 0o100751, 0o705}, {"u=rwx,g+s,o-rwx", 0o100644, 0o2740}, {"=", 0o106777, 0},
		{"755", 0o042700, 0o2755}, {"g-w+x", 0o100620, 0o610}, {"+t", 0o040777, 0o1777}, {"u=s", 0o100777, 0o4077}, {"u+", 0o100644, 0o644},
	} {
		m, err := Parse(c.text)
		if got := m.Apply(c.have, 0); err != nil || got != c.want {
			t.Errorf("%s of %o: %o, want %o, %v", c.text, c.have, got, c.want, err)
		}
	}
	for _, text := range []string{"", "8", "77777", "+644", "u", "z+x", "u+x,", "u+q", "x"} {
		if m, err := Parse(text); err == nil {
			t.Errorf("%q: %+v", text, m)
		}
	}
}

// Files and directories get from chmod, under any umask, what Apply says, and have then
// the mode that ls shows.
func TestLikeChmod(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 1))
	some := func(of string) string {
		var b strings.Builder
		for _, c := range of {
			if r.IntN(3) == 0 {
				b.WriteRune(c)
			}
		}
		return b.String()
	}
	random := func() string {
		if r.IntN(10) == 0 {
			return fmt.Sprintf("%o", r.IntN(0o10000))
		}
		var clauses []string
		for range 1 + r.IntN(3) {
			clause := some("ugoa")
			for range 1 + r.IntN(2) {
				perm := some("rwxXst")
				if r.IntN(4) == 0 {
					perm = string("ugo"[r.IntN(3)])
				}
				clause += string("+-="[r.IntN(3)]) + perm
			}
			clauses = append(clauses, clause)
		}
		return strings.Join(clauses, ",")
	}
	type change struct {
		text, name  string
		have, umask uint32
	}
	dir := t.TempDir()
	var changes []change
	var script strings.Builder
	for i := range 300 {
		c := change{random(), filepath.Join(dir, fmt.Sprint(i)), unix.S_IFREG | uint32(r.IntN(0o10000)), uint32(r.IntN(0o1000))}
		err := os.WriteFile(c.name, nil, 0o600)
		if i%2 == 0 {
			c.have = c.have&permissions | unix.S_IFDIR
			err = errors.Join(os.Remove(c.name), os.Mkdir(c.name, 0o700))
		}
		if err = errors.Join(err, unix.Chmod(c.name, c.have&permissions)); err != nil {
			t.Fatal(err)
		}
		changes = append(changes, c)
		// chmod complains where the umask keeps it from a part.
		fmt.Fprintf(&script, "umask %04o; chmod -- %s %s 2>/dev/null\n", c.umask, c.text, c.name)
	}
	lines := strings.Split(oracle.Run(t, "sh", "-c", script.String()+"cd "+dir+"; LC_ALL=C ls -ld *"), "\n")
	slices.SortFunc(changes, func(a, b change) int { return strings.Compare(a.name, b.name) })
	for i, c := range changes {
		m, err := Parse(c.text)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(c.name, &st); err != nil {
			t.Fatal(err)
		}
		if got := m.Apply(c.have, c.umask); got != st.Mode&permissions {
			t.Errorf("seed %d: %s of %o, umask %03o: %04o, chmod makes it %04o", seed, c.text, c.have, c.umask, got, st.Mode&permissions)
		}
		if got := String(st.Mode); !strings.HasPrefix(lines[i], got) {
			t.Errorf("%o is shown as %s, ls shows %s", st.Mode, got, lines[i])
		}
	}
}
