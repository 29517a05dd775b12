package partition

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// blankImage is a new image of zeros.
func blankImage(t testing.TB, size int64) (string, *ubdfmt.Raw) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dev, err := ubdfmt.OpenRaw(path, ubdfmt.Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return path, dev
}

// sfdiskTable is what sfdisk --json says.
type sfdiskTable struct {
	Table struct {
		Label, ID  string
		Partitions []struct {
			Node             string
			Start, Size      int64
			Type, UUID, Name string
			Bootable         bool
			Attrs            string
		}
	} `json:"partitiontable"`
}

func sfdiskRead(t *testing.T, path string) Table {
	t.Helper()
	var s sfdiskTable
	text, err := exec.Command(oracle.Tool(t, "sfdisk"), "--json", path).Output()
	if err != nil {
		t.Fatalf("sfdisk --json: %v", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	out := Table{Kind: map[string]Kind{"gpt": GPT, "dos": MBR}[s.Table.Label], UUID: s.Table.ID}
	for _, p := range s.Table.Partitions {
		n, err := strconv.Atoi(strings.TrimPrefix(p.Node, path))
		if err != nil {
			t.Fatal(err)
		}
		q := Partition{Number: n, Type: p.Type, Name: p.Name, UUID: p.UUID, Start: p.Start * sector, Size: p.Size * sector, Bootable: p.Bootable}
		if out.Kind == MBR {
			q.UUID = fmt.Sprintf("%s-%02x", strings.TrimPrefix(s.Table.ID, "0x"), n)
			typ, _ := strconv.ParseUint(p.Type, 16, 8)
			q.Extended = n < 5 && isExtended(byte(typ))
		}
		if strings.Contains(p.Attrs, "LegacyBIOSBootable") {
			q.Attributes |= 1 << 2
		}
		if strings.Contains(p.Attrs, "RequiredPartition") {
			q.Attributes |= 1
		}
		out.Partitions = append(out.Partitions, q)
	}
	return out
}

// plain is a table without what sfdisk does not tell.
func plain(t Table) Table {
	t.First, t.Last = 0, 0
	t.Partitions = append([]Partition(nil), t.Partitions...)
	for i := range t.Partitions {
		t.Partitions[i].ebr = 0
	}
	return t
}

func same(t *testing.T, what string, have, want Table) {
	t.Helper()
	if have, want := plain(have), plain(want); !reflect.DeepEqual(have, want) {
		t.Fatalf("%s:\nhave %+v\nwant %+v", what, have, want)
	}
}

var scripts = map[string]string{
	"gpt":       "label: gpt\nsize=10M,name=first,type=uefi,attrs=\"RequiredPartition LegacyBIOSBootable\"\nsize=5M,type=swap,name=\"Größe €😀\"\n- : type=linux\n",
	"gpt-holes": "label: gpt\n3 : start=40960,size=2048\n1 : start=90112,size=2048\n128 : start=2048,size=8\n",
	"gpt-empty": "label: gpt\n",
	"mbr":       "label: dos\nsize=10M,type=c,bootable\nsize=5M,type=82\n- : type=83\n",
	"mbr-empty": "label: dos\n",
	"logical":   "label: dos\n1 : size=5M\n2 : size=40M,type=5\n5 : size=4M\n6 : size=3M,type=82\n7 : size=6M\n3 : start=96256,size=2M\n",
	"extended":  "label: dos\n1 : size=4M\n4 : size=30M,type=f\n",
}

// What sfdisk makes is read, and read the same after it was written again by us.
func TestReadsSfdisk(t *testing.T) {
	for name, script := range scripts {
		path, dev := blankImage(t, 64<<20)
		cmd := exec.Command(oracle.Tool(t, "sfdisk"), "-q", "--no-reread", "--no-tell-kernel", "-w", "never", path)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: sfdisk: %v\n%s", name, err, out)
		}
		want := sfdiskRead(t, path)
		have, err := Read(dev)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		same(t, name, have, want)
		if err := Write(dev, have); err != nil {
			t.Fatalf("%s: write: %v", name, err)
		}
		same(t, name+", written again", sfdiskRead(t, path), want)
		verify(t, have.Kind, path)
	}
}

// verify asks the tools what they think of a table.
func verify(t *testing.T, kind Kind, path string) {
	t.Helper()
	if out, err := exec.Command(oracle.Tool(t, "sfdisk"), "--verify", path).CombinedOutput(); err != nil {
		t.Fatalf("sfdisk --verify: %v\n%s", err, out)
	}
	if kind != GPT {
		return // sgdisk would convert it
	}
	if out := oracle.Run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
		t.Fatalf("sgdisk -v:\n%s", out)
	}
}

// What we make is what sfdisk reads, and sgdisk finds nothing wrong.
func TestWritesForOthers(t *testing.T) {
	id := [16]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4e, 0xf0, 0x81, 2, 3, 4, 5, 6, 7, 8}
	linux, _ := ParseType(MBR, "extended")
	swap, _ := ParseType(GPT, "swap")
	for _, c := range []struct {
		name  string
		kind  Kind
		size  int64
		specs []Spec
	}{
		{"gpt", GPT, 64 << 20, []Spec{{Size: 10 << 20, Name: "Größe €😀"}, {Size: 1<<20 + 512, Type: swap}, {}}},
		{"gpt empty", GPT, 1 << 20, nil},
		{"gpt 5 TiB", GPT, 5 << 40, []Spec{{Size: 3 << 40}, {}}},
		{"mbr", MBR, 64 << 20, []Spec{{Size: 10 << 20, Bootable: true}, {Size: 4096, Type: "c"}, {}}},
		{"mbr of 3 TiB", MBR, 3 << 40, []Spec{{Size: 1 << 40}, {}}},
		{"logical", MBR, 64 << 20, []Spec{{Size: 5 << 20}, {Type: linux}, {Size: 4 << 20}, {Size: 1 << 20, Type: "82"}, {}}},
	} {
		path, dev := blankImage(t, c.size)
		table, err := New(c.kind, c.size, id, c.specs)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := Write(dev, table); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		have, err := Read(dev)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		same(t, c.name+", read back", have, table)
		same(t, c.name+", by sfdisk", sfdiskRead(t, path), table)
		verify(t, c.kind, path)
		for _, p := range have.Partitions {
			if p.Start%Align != 0 {
				t.Errorf("%s: partition %d begins at %d", c.name, p.Number, p.Start)
			}
		}
	}
}

// The GUIDs that follow from one do not change between releases, and differ.
func TestDerivedUUIDs(t *testing.T) {
	table, err := New(GPT, 64<<20, [16]byte{15: 1}, []Spec{{Size: 1 << 20}, {}})
	if err != nil {
		t.Fatal(err)
	}
	have := fmt.Sprint(table.UUID, " ", table.Partitions[0].UUID, " ", table.Partitions[1].UUID)
	if want := "00000000-0000-0000-0000-000000000001 0F1939D4-3EBF-4934-AF2F-D2838CB2A0D9 9AC0DC65-9160-462B-AE16-8F644ABE2701"; have != want {
		t.Errorf("have %s, want %s", have, want)
	}
}

func TestLayoutRefuses(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		specs []Spec
		want  string
	}{
		{GPT, []Spec{{Size: 100 << 20}}, "partition 1: 104857600 bytes from 1048576 on do not fit: 66043392 are left"},
		{GPT, []Spec{{}, {}}, "only the last partition takes the rest"},
		{GPT, []Spec{{Size: 100}}, "whole sectors"},
		{GPT, []Spec{{Bootable: true}}, "no bootable flag"},
		{GPT, []Spec{{Name: strings.Repeat("x", 37)}}, "37 characters"},
		{GPT, []Spec{{Name: "a\nb"}}, "control character"},
		{GPT, []Spec{{Name: "a\xff"}}, "no UTF-8"},
		{MBR, []Spec{{Name: "x"}}, "no names"},
		{MBR, []Spec{{Size: 1 << 20}, {Size: 1 << 20}, {Size: 1 << 20}, {Size: 1 << 20}, {}}, "no more than 4"},
		{MBR, []Spec{{Size: 9 << 20, Type: "5"}, {Type: "5"}}, "holds no other"},
		{MBR, []Spec{{Size: 3 << 20, Type: "5"}, {Size: 3 << 20}}, "do not fit"},
		{"bsd", nil, "no kind"},
	} {
		if _, err := New(c.kind, 64<<20, [16]byte{1}, c.specs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.specs, err, c.want)
		}
	}
}

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		kind       Kind
		text, want string
	}{
		{GPT, "linux", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}, {GPT, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"},
		{GPT, "83", ""}, {GPT, "00000000-0000-0000-0000-000000000000", ""}, {GPT, "extended", ""},
		{MBR, "linux", "83"}, {MBR, "0C", "c"}, {MBR, "0", ""}, {MBR, "ee", ""}, {MBR, "+1", ""}, {MBR, "home", ""}, {MBR, "183", ""},
	} {
		have, err := ParseType(c.kind, c.text)
		if have != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %q: %q, %v", c.kind, c.text, have, err)
		}
	}
}

// Wiping leaves nothing that other tools would take for a table.
func TestWipe(t *testing.T) {
	for _, kind := range []Kind{GPT, MBR} {
		path, dev := blankImage(t, 8<<20)
		table, err := New(kind, 8<<20, [16]byte{1}, []Spec{{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Write(dev, table), Wipe(dev)); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dev); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", kind, err)
		}
		if out := oracle.Run(t, "wipefs", path); out != "" {
			t.Errorf("%s: wipefs still finds %s", kind, out)
		}
	}
}

// A write that is cut off anywhere leaves the old table, the new one, or none.
func TestWriteIsCut(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	r := rand.New(rand.NewPCG(seed, 7))
	size := int64(16 << 20)
	older, err := New(GPT, size, [16]byte{1}, []Spec{{Size: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	newer := older
	newer.Partitions = append([]Partition(nil), older.Partitions...)
	newer.Partitions[0].Size = 8 << 20
	for range 200 {
		_, dev := blankImage(t, size)
		if err := Write(dev, older); err != nil {
			t.Fatal(err)
		}
		cut := &cutDevice{Device: dev, left: r.IntN(70)}
		err := Write(cut, newer)
		have, readErr := Read(dev)
		if readErr != nil {
			t.Fatalf("after %v: %v", err, readErr)
		}
		if got := have.Partitions[0].Size; got != 4<<20 && got != 8<<20 {
			t.Fatalf("a partition of %d bytes", got)
		}
	}
}

// cutDevice takes so many writes and fails then.
type cutDevice struct {
	ubdfmt.Device
	left int
}

func (c *cutDevice) WriteAt(p []byte, off int64) (int, error) {
	if c.left--; c.left < 0 {
		return 0, os.ErrClosed
	}
	return c.Device.WriteAt(p, off)
}
