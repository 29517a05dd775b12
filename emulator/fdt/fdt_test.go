package fdt

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

const source = `/dts-v1/;
/memreserve/ 0x10000 0x2000;
/ {
	compatible = "umlkit,test", "umlkit";
	model = "A test";
	#address-cells = <1>;
	#size-cells = <0>;
	aliases { led0 = &led; };
	led: led@1 {
		reg = <1>;
		compatible = "umlkit,led";
		label = "green:status";
		empty;
		sub { deep { x = [00 01 02]; y = "a", "b"; }; };
	};
	led@2 { reg = <2>; compatible = "other", "umlkit,led"; status = "okay"; };
	led@3 { reg = <3>; compatible = "umlkit,led"; status = "disabled"; };
	chosen { bootargs = "quiet"; };
};
`

// compile makes a blob by dtc.
func compile(t testing.TB, source string, options ...string) []byte {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, "dtc"), append([]string{"-q", "-I", "dts", "-O", "dtb"}, options...)...)
	cmd.Stdin = strings.NewReader(source)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("dtc: %v", err)
	}
	return out
}

// decompile is what dtc makes of a directory or a blob.
func decompile(t testing.TB, form, name string) string {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "dtc"), "-q", "-s", "-I", form, "-O", "dts", name).Output()
	if err != nil {
		t.Fatalf("dtc: %v", err)
	}
	return string(out)
}

// write makes a node's files below a directory.
func write(t testing.TB, dir string, n *Node) {
	t.Helper()
	for _, f := range n.Files() {
		name := filepath.Join(dir, f.Name)
		var err error
		if f.Node != nil {
			err = os.Mkdir(name, 0o755)
		} else {
			err = os.WriteFile(name, f.Value, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Node != nil {
			write(t, name, f.Node)
		}
	}
}

// TestParse holds that dtc reads the same in our files as in its own blob.
func TestParse(t *testing.T) {
	for _, options := range [][]string{nil, {"-V", "16"}, {"-p", "1000"}, {"-S", "9000"}, {"-R", "7"}, {"-@"}} {
		blob := compile(t, source, options...)
		tree, err := Parse(blob)
		if err != nil {
			t.Errorf("%v: %v", options, err)
			continue
		}
		dir := t.TempDir()
		write(t, dir, tree.Root)
		file := filepath.Join(t.TempDir(), "dtb")
		if err := os.WriteFile(file, blob, 0o644); err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(decompile(t, "dtb", file), "/memreserve/\t0x0000000000010000 0x0000000000002000;\n", "", 1)
		if got := decompile(t, "fs", dir); got != want {
			t.Errorf("%v:\n%s\nwant\n%s", options, got, want)
		}
		if again, err := ReadFile(file); err != nil || !bytes.Equal(again.Blob, blob) {
			t.Errorf("%v: %v", options, err)
		}
	}
}

func TestCompatible(t *testing.T) {
	tree, err := Parse(compile(t, source))
	if err != nil {
		t.Fatal(err)
	}
	found := tree.Compatible("umlkit,led")
	if len(found) != 2 || found[0].Name != "led@1" || found[1].Name != "led@2" {
		t.Fatalf("found %v", found)
	}
	led := found[0]
	if label, ok := led.Text("label"); label != "green:status" || !ok {
		t.Errorf("label %q, %v", label, ok)
	}
	if reg, ok := led.Cell("reg"); reg != 1 || !ok {
		t.Errorf("reg %d, %v", reg, ok)
	}
	if _, ok := led.Text("empty"); ok {
		t.Error("a property without a value is a string")
	}
	if _, ok := led.Text("reg"); ok {
		t.Error("a number is a string")
	}
	if _, ok := led.Cell("label"); ok {
		t.Error("a string is a number")
	}
	if (*Tree)(nil).Compatible("umlkit,led") != nil {
		t.Error("no tree has nodes")
	}
}

// TestNames holds how names come out that stand twice.
func TestNames(t *testing.T) {
	n := &Node{Name: "n@1", Properties: []Property{{"a", nil}, {"a", nil}, {"b", nil}}, Children: []*Node{{Name: "b"}, {Name: "c"}}}
	var got []string
	for _, f := range n.Files() {
		got = append(got, f.Name)
	}
	if strings.Join(got, " ") != "a a#1 b name b#1 c" {
		t.Errorf("names %q", got)
	}
}

func TestRefuses(t *testing.T) {
	blob := compile(t, source)
	put := func(at int, v uint32) []byte {
		b := bytes.Clone(blob)
		binary.BigEndian.PutUint32(b[at:], v)
		return b
	}
	structs := int(binary.BigEndian.Uint32(blob[8:]))
	size := int(binary.BigEndian.Uint32(blob[36:]))
	name := func(old, new string) []byte { return bytes.Replace(blob, []byte(old), []byte(new), 1) }
	deep := compile(t, "/dts-v1/; / {"+strings.Repeat("a {", 64)+strings.Repeat("};", 64)+"};")
	for test, c := range map[string]struct {
		blob []byte
		want string
	}{
		"empty":            {nil, "0 bytes are no device tree"},
		"magic":            {put(0, 1), "begins with 0x00000001"},
		"total":            {put(4, uint32(len(blob)+1)), "total size"},
		"cut":              {blob[:len(blob)-1], "total size"},
		"huge":             {put(4, 1<<31), "total size"},
		"structure":        {put(8, 1<<30), "blocks at"},
		"odd structure":    {put(8, uint32(structs+2)), "blocks at"},
		"names":            {put(12, 1<<30), "blocks at"},
		"version":          {put(20, 3), "version 3"},
		"new":              {put(24, 18), "readable from 18 on"},
		"size of names":    {put(32, 1<<31), "names of 2147483648 bytes"},
		"no names":         {put(32, 0), "behind the names"},
		"size of struct":   {put(36, 1<<31), "structure of 2147483648 bytes"},
		"short struct":     {put(36, uint32(size-4)), "the structure ends too early"},
		"token":            {put(structs, 5), "token 5 is none"},
		"no node":          {put(structs, end), "ends within a node"},
		"no begin":         {put(structs, endNode), "a node ends that did not begin"},
		"long property":    {put(structs+12, 1<<31), "a property of 2147483648 bytes"},
		"name of property": {put(structs+16, 1<<31), "behind the names"},
		"upwards":          {name("led@3\x00\x00\x00", "..\x00\x00\x00\x00\x00\x00"), `".." is no name of a node`},
		"slash":            {name("led@3", "l/d@3"), `"l/d@3" is no name of a node: '/' is in it`},
		"deep":             {deep, "more than 64 nodes in each other"},
	} {
		tree, err := Parse(c.blob)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: tree %t, error %v; want %q", test, tree != nil, err, c.want)
		}
	}
	if _, err := ReadFile("/dev/zero"); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("/dev/zero: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(compile(f, source))
	f.Add(compile(f, source, "-V", "16"))
	f.Fuzz(func(t *testing.T, blob []byte) {
		tree, err := Parse(blob)
		if err != nil {
			return
		}
		tree.Root.walk(func(n *Node) {
			names := make(map[string]bool)
			for _, f := range n.Files() {
				if f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, "/\x00") || names[f.Name] {
					t.Fatalf("file %q in %q", f.Name, n.Name)
				}
				names[f.Name] = true
			}
			n.Cell("reg")
			n.Text("name")
		})
		tree.Compatible("x")
	})
}
