package emulator_test

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
)

// TestOneInterface holds of every driver what they have in common: what it says of a unit
// is what makes such a unit, by the console while the guest runs and by the command line.
func TestOneInterface(t *testing.T) {
	dir := t.TempDir()
	specs := map[string]string{
		"con3": "null", "ssl5": "null,fd:1", "ubd2": disk(t, 1<<20), "ubd3": filepath.Join(dir, "new.cow") + "," + disk(t, 1<<20),
		"hwrng": "/dev/urandom,65536", "strace": "comm:nobody:openat",
		"vec3": "transport=bess,dst=/no/such/switch,depth=9",
		"eth3": "daemon,,unix,/no/such/switch",
	}
	start := func(name string, words ...string) (*guest.Machine, string) {
		words = append([]string{guest.Binary(t, "linux"), "mem=64M", "uml_dir=" + dir, "umid=" + name, "initrd=" + initrd(t), "con0=null,fd:1", "forever"}, words...)
		m := guest.Start(t, words...)
		m.Expect(limit, "waiting")
		return m, filepath.Join(dir, name, "mconsole")
	}
	check := func(socket, command string, code int32, text string) {
		t.Helper()
		if c, got := ask(t, socket, command); c != code || got != text {
			t.Errorf("%s: %d %q; want %d %q", command, c, got, code, text)
		}
	}
	m, socket := start("console")
	var words []string
	for unit, spec := range specs {
		sign := "="
		if strings.HasPrefix(unit, "vec") {
			sign = ":"
		}
		words = append(words, unit+sign+spec)
		if unit == "con3" || unit == "ssl5" {
			check(socket, "remove "+unit, 0, "")
		}
		check(socket, "config "+unit+sign+spec, 0, "")
		check(socket, "config "+unit, 0, spec)
		check(socket, "remove "+unit, 0, "")
		check(socket, "config "+unit+sign+spec, 0, "")
		check(socket, "config "+unit, 0, spec)
	}
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
	m, socket = start("line", words...)
	for unit, spec := range specs {
		check(socket, "config "+unit, 0, spec)
	}
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
}
