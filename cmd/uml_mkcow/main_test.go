package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsc.io/script"
	"rsc.io/script/scripttest"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// TestMain is uml_mkcow itself when the scripts run it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_UML_MKCOW") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestScripts(t *testing.T) {
	engine := script.NewEngine()
	engine.Cmds = scripttest.DefaultCmds()
	for name, path := range map[string]string{
		"uml_mkcow": os.Args[0], "debian_mkcow": oracle.Tool(t, "uml_mkcow"), "debian_moo": oracle.Tool(t, "uml_moo"),
		"truncate": oracle.Tool(t, "truncate"), "dd": oracle.Tool(t, "dd"), "chmod": oracle.Tool(t, "chmod"),
		"ln": oracle.Tool(t, "ln"), "mkfifo": oracle.Tool(t, "mkfifo"), "ls": oracle.Tool(t, "ls"), "stat": oracle.Tool(t, "stat"),
	} {
		engine.Cmds[name] = script.Program(path, nil, 10*time.Second)
	}
	scripttest.Test(t, t.Context(), engine, append(os.Environ(), "RUN_UML_MKCOW=1"), "testdata/*.txt")
}

func TestParse(t *testing.T) {
	for args, want := range map[string]command{
		"c b":       {false, "c", "b"},
		"-f c b":    {true, "c", "b"},
		"c -f b":    {true, "c", "b"},
		"c b -f":    {true, "c", "b"},
		"-ff c b":   {true, "c", "b"},
		"-- -f b":   {false, "-f", "b"},
		"-f -- c -": {true, "c", "-"},
	} {
		if got, ok := parse(strings.Fields(args)); !ok || got != want {
			t.Errorf("%q: %+v, %v; want %+v", args, got, ok, want)
		}
	}
	for _, args := range []string{"", "-f", "c", "a b c", "-x c b", "--help", "-fx c b"} {
		var stderr bytes.Buffer
		if got := run(strings.Fields(args), &stderr); got != 2 || stderr.String() != usage {
			t.Errorf("%q: status %d, %q", args, got, &stderr)
		}
	}
}

// TestForceInUse: a COW file that a machine has open is not replaced.
func TestForceInUse(t *testing.T) {
	dir := t.TempDir()
	base, cow := filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow")
	if err := os.WriteFile(base, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	machine, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	before, err := os.Stat(cow)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if got := run([]string{"-f", cow, base}, &stderr); got != 1 || !strings.Contains(stderr.String(), "process ") {
		t.Errorf("status %d, %q", got, &stderr)
	}
	if after, err := os.Stat(cow); err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() {
		t.Errorf("it was touched: %v", err)
	}
}

// An error is one line, whatever the files are called.
func TestOddNames(t *testing.T) {
	var stderr bytes.Buffer
	status := run([]string{filepath.Join(t.TempDir(), "c"), "/no\n\x1b[2Jne"}, &stderr)
	if want := `/no\x0a\x1b[2Jne: no such file or directory` + "\n"; status != 1 || !strings.HasPrefix(stderr.String(), "uml_mkcow: ") || !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("status %d, %q", status, &stderr)
	}
}

func TestManualPage(t *testing.T) {
	oracle.HoldsPage(t, "uml_mkcow", usage, func(option string) bool {
		_, ok := parse([]string{option, "c", "b"})
		return ok
	})
}
