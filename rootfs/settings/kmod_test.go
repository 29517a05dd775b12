package settings

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/release"
)

// writeOwn lays our module directory out on the host.
func writeOwn(t *testing.T, base string) string {
	t.Helper()
	dir := filepath.Join(base, "lib/modules", release.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range ownModules() {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Depmod, given the same list of what is built in, must make the same files.
func TestOwnModulesAreDepmods(t *testing.T) {
	base := t.TempDir()
	dir := writeOwn(t, base)
	oracle.Run(t, "depmod", "-b", base, release.Name)
	for _, f := range ownModules() {
		got, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		} else if !bytes.Equal(got, f.data) {
			t.Errorf("%s: depmod makes %x of it, we made %x", f.name, got, f.data)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(ownModules()) {
		t.Errorf("depmod leaves %d files, we make %d (%v)", len(entries), len(ownModules()), err)
	}
}

func TestModprobeFindsBuiltins(t *testing.T) {
	base := t.TempDir()
	writeOwn(t, base)
	for _, p := range builtins {
		name := strings.TrimSuffix(filepath.Base(p), ".ko")
		if out := oracle.Run(t, "modprobe", "-d", base, "-S", release.Name, "--show-depends", name); out != "builtin "+name+"\n" {
			t.Errorf("modprobe --show-depends %s says %q", name, out)
		}
		oracle.Run(t, "modprobe", "-d", base, "-S", release.Name, name)
	}
	out, err := exec.Command(oracle.Tool(t, "modprobe"), "-d", base, "-S", release.Name, "nosuch").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not found") {
		t.Errorf("modprobe finds a module that is not there: %v %s", err, out)
	}
}

// Any set of names must make depmod's index.
func TestKmodIndex(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	for round := range 30 {
		names := map[string]bool{}
		for range 1 + rng.Intn(60) {
			b := make([]byte, 1+rng.Intn(6))
			for i := range b {
				b[i] = "abcxyz_019"[rng.Intn(10)]
			}
			names[string(b)] = true
		}
		if round == 0 {
			names = map[string]bool{"only": true}
		}
		base := t.TempDir()
		dir := filepath.Join(base, "lib/modules", "1.2.3")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var list bytes.Buffer
		var all []string
		for n := range names {
			fmt.Fprintf(&list, "kernel/%s.ko\n", n)
			all = append(all, n)
		}
		for file, data := range map[string][]byte{"modules.builtin": list.Bytes(), "modules.order": nil, "modules.builtin.modinfo": nil} {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		oracle.Run(t, "depmod", "-b", base, "1.2.3")
		want, err := os.ReadFile(filepath.Join(dir, "modules.builtin.bin"))
		if err != nil {
			t.Fatal(err)
		}
		if got := kmodIndex(all); !bytes.Equal(got, want) {
			t.Fatalf("%v: the index is\n%x, depmod's\n%x", all, got, want)
		}
	}
}
