// Package floors holds the house's plan: which package may import which. See
// docs/architecture.md.
package floors

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

const module = "github.com/umlkit/umlkit/"

// rooms is the house from the ground up. A package belongs to the first room whose
// name it has or stands below, and imports only its own room and those listed.
var rooms = []struct {
	name string
	may  []string
}{
	{"release", nil},
	{"filemode", nil},
	{"lz4", nil},
	{"mconsole", nil},
	{"ubdfmt", nil},
	{"partition", []string{"ubdfmt"}},
	{"nbd", []string{"ubdfmt"}},
	{"ext4", []string{"ubdfmt"}},
	{"rootfs", []string{"ext4", "ubdfmt", "release"}},
	{"volume", []string{"ext4", "ubdfmt", "rootfs", "lz4"}},
	{"emulator", []string{"ext4", "partition", "ubdfmt", "mconsole", "lz4", "release"}},
	{"cmd/linux", []string{"emulator", "release"}},
	{"cmd/umlimg", []string{"volume", "rootfs", "ext4", "partition", "nbd", "ubdfmt", "filemode", "release"}},
	{"cmd/uml_moo", []string{"ubdfmt", "release"}},
	{"cmd/uml_mkcow", []string{"ubdfmt", "release"}},
	{"cmd/uml_mconsole", []string{"mconsole", "release"}},
	{"cmd/umlbox", []string{"filemode", "release"}},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T) []pkg {
	t.Helper()
	oracle.Sources(t)
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,Standard", "./...")
	cmd.Dir = oracle.Root(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func roomOf(path string) (name string, may []string, ok bool) {
	for _, r := range rooms {
		if within(path, r.name) {
			return r.name, r.may, true
		}
	}
	return "", nil, false
}

func TestFloors(t *testing.T) {
	seen := 0
	pkgs := list(t)
	// What no program links is for tests, wherever it stands.
	linked := map[string]bool{}
	for _, p := range pkgs {
		if strings.HasPrefix(p.ImportPath, module+"cmd/") {
			for _, d := range p.Deps {
				linked[d] = true
			}
		}
	}
	for _, p := range pkgs {
		path, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours || within(path, "internal") || within(path, "bench") {
			continue
		}
		room, may, ok := roomOf(path)
		if !ok {
			t.Errorf("%s stands in no room of the house: give it a place in this test and in docs/architecture.md", path)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			other, _, ok := roomOf(imp)
			if !ok {
				if linked[p.ImportPath] || strings.HasPrefix(path, "cmd/") {
					t.Errorf("%s imports %s, which is for tests", path, imp)
				}
				continue
			}
			if other == room {
				continue
			}
			allowed := false
			for _, m := range may {
				allowed = allowed || m == other
			}
			if !allowed {
				t.Errorf("%s imports %s: %s may import only %v", path, imp, room, may)
			}
		}
	}
	if seen < len(rooms) {
		t.Errorf("go list showed %d packages for %d rooms", seen, len(rooms))
	}
}

// The tools start in milliseconds and stay small because no byte of the machine is
// linked into them.
func TestOnlyTheMachineReachesGVisor(t *testing.T) {
	reached := false
	for _, p := range list(t) {
		path, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		if within(path, "emulator") || within(path, "cmd/linux") {
			for _, d := range p.Deps {
				reached = reached || strings.HasPrefix(d, "gvisor.dev/gvisor/pkg/sentry")
			}
			continue
		}
		for _, d := range p.Deps {
			if strings.HasPrefix(d, "gvisor.dev/") || strings.HasPrefix(d, module+"emulator") {
				t.Errorf("%s reaches %s", path, d)
				break
			}
		}
	}
	if !reached {
		t.Error("cmd/linux links no Sentry: this test looks at the wrong thing")
	}
}
