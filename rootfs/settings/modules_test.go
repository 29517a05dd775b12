package settings

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/release"
)

// writeModules makes the directory of one release.
func writeModules(t *testing.T, dir, vermagic, pack string) {
	t.Helper()
	kernel := filepath.Join(dir, "kernel", "fs")
	if err := os.MkdirAll(kernel, 0o755); err != nil {
		t.Fatal(err)
	}
	ko := filepath.Join(kernel, "isofs.ko")
	text := "\x7fELF...\x00license=GPL\x00vermagic=" + vermagic + " SMP mod_unload \x00name=isofs\x00"
	for path, data := range map[string]string{ko: text, filepath.Join(dir, "modules.dep"): "kernel/fs/isofs.ko:\n"} {
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if pack != "" {
		oracle.Run(t, pack, "-q", "--rm", ko)
	}
	if err := os.Symlink("/usr/src/linux", filepath.Join(dir, "build")); err != nil {
		t.Fatal(err)
	}
}

func TestModules(t *testing.T) {
	const rel = "6.1.0-uml"
	for name, make := range map[string]func(dir string) string{
		"debian's": func(dir string) string { writeModules(t, filepath.Join(dir, rel), rel, ""); return dir },
		"install mod path": func(dir string) string {
			writeModules(t, filepath.Join(dir, "lib/modules", rel), rel, "")
			return dir
		},
		"modlib":         func(dir string) string { writeModules(t, dir, rel, ""); return dir },
		"modlib, packed": func(dir string) string { writeModules(t, dir, rel, "zstd"); return dir },
		"modlib without a word": func(dir string) string {
			d := filepath.Join(dir, rel)
			if err := os.MkdirAll(filepath.Join(d, "kernel"), 0o755); err != nil {
				t.Fatal(err)
			}
			return d
		},
	} {
		dir := make(t.TempDir())
		m, err := ReadModules(context.Background(), dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tr := treeOf(t, map[string]string{"/lib": "->usr/lib", "/usr/lib/": ""})
		if err := m.Apply(tr); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := (OwnModules{}).Apply(tr); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n, err := tr.Lookup("/usr/lib/modules/"+rel+"/kernel", true)
		if err != nil || n.UID != 0 || n.GID != 0 {
			t.Errorf("%s: %v %v", name, n, err)
			continue
		}
		if l, _ := tr.Lookup("/lib", false); !l.IsSymlink() {
			t.Errorf("%s: /lib is no link any more", name)
		}
		if !tr.Exists("/lib/modules/" + release.Name + "/modules.dep.bin") {
			t.Errorf("%s: our own release is missing", name)
		}
		if name == "debian's" {
			data, err := tr.ReadFile("/lib/modules/"+rel+"/kernel/fs/isofs.ko", 1000)
			if err != nil || !strings.Contains(string(data), "vermagic") {
				t.Errorf("%s: the module is %q, %v", name, data, err)
			}
			if l, err := tr.Lookup("/lib/modules/"+rel+"/build", false); err != nil || l.Target != "/usr/src/linux" {
				t.Errorf("%s: build is %v, %v", name, l, err)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	empty := t.TempDir()
	if err := os.MkdirAll(filepath.Join(empty, "some", "thing"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{empty, filepath.Join(empty, "missing")} {
		if _, err := ReadModules(context.Background(), dir); err == nil || !strings.Contains(fmt.Sprint(err), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
