package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
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

// The page has the options that there are, and no others: letters, and the words of the
// usage and of the page.
func TestManualPage(t *testing.T) {
	path := filepath.Join(oracle.Root(t), "man", "uml_mkcow.1")
	oracle.Run(t, "mandoc", "-Tlint", "-W", "warning", path)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(strings.ReplaceAll(string(text), `\-`, "-"), ".SH OPTIONS\n")
	page, _, _ = strings.Cut(page, "\n.SH ")
	documented := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^\.TP\n(\.B.*)$`).FindAllStringSubmatch(page, -1) {
		for _, option := range regexp.MustCompile(`(?:^|[ "])(-[-a-z]+)`).FindAllStringSubmatch(line[1], -1) {
			documented[option[1]] = true
		}
	}
	known := func(option string) bool {
		_, ok := parse([]string{option, "c", "b"})
		return ok
	}
	asked := regexp.MustCompile(`--[a-z]+`).FindAllString(usage+page, -1)
	for letter := 'a'; letter <= 'z'; letter++ {
		asked = append(asked, "-"+string(letter))
	}
	for option := range documented {
		asked = append(asked, option)
	}
	for _, option := range asked {
		if known(option) != documented[option] {
			t.Errorf("%s: an option: %v, on the page: %v", option, known(option), documented[option])
		}
	}
}
