package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// completions are what each shell makes of the beginning of a line.
var completions = map[string]string{
	"umlimg resi":               "umlimg resize",
	"umlimg partition li":       "umlimg partition list",
	"umlimg create --hostn":     "umlimg create --hostname",
	"umlimg partition list --j": "umlimg partition list --json",
	"umlimg resize one-d":       "umlimg resize one-disk.img",
	"umlimg partition list one": "umlimg partition list one-disk.img",
	"umlimg serve --read":       "umlimg serve --read-only",
	"umlimg completion zs":      "umlimg completion zsh",
	"umlimg help resi":          "umlimg help resize",
	"uml_moo --ke":              "uml_moo --keep",
	"uml_moo -d one":            "uml_moo -d one-disk.img",
	"uml_mkcow -f one":          "uml_mkcow -f one-disk.img",
}

var shells = []string{"bash", "zsh", "fish"}

// shell runs a script of a shell in a directory with a disk, umlimg in its path.
func shell(t *testing.T, argv ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "one-disk.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range shells {
		_, text, _ := call("completion", name)
		if err := os.WriteFile(filepath.Join(dir, "script."+name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(oracle.Tool(t, argv[0]), argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TERM=dumb", "HOME="+dir, "UMLIMG="+guest.Binary(t, "umlimg"), "PATH="+filepath.Dir(guest.Binary(t, "umlimg"))+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
	return string(out)
}

func TestZshCompletion(t *testing.T) {
	oracle.HoldsZsh(t, func(argv ...string) string { return shell(t, argv...) }, completions)
}

func TestFishCompletion(t *testing.T) {
	oracle.HoldsFish(t, func(argv ...string) string { return shell(t, argv...) }, completions)
}

// bashDriver calls the function that is bound to a program as bash does, and completes a
// file's name where the function says nothing.
const bashDriver = `. ./script.bash
for line in "$@"; do
	COMP_LINE=$line COMP_POINT=${#line}
	read -ra COMP_WORDS <<<"$line"
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	COMPREPLY=()
	read -ra bound <<<"$(complete -p "${COMP_WORDS[0]}")"
	[[ " ${bound[*]} " == *" -o default "* ]] || exit 1
	"${bound[-2]}"
	[[ ${#COMPREPLY[@]} == 0 ]] && mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
	echo "${line%"${COMP_WORDS[COMP_CWORD]}"}${COMPREPLY[*]}"
done`

func TestBashCompletion(t *testing.T) {
	argv, want := []string{"bash", "-c", bashDriver, "bash"}, ""
	for line, whole := range completions {
		argv, want = append(argv, line), want+whole+"\n"
	}
	if have := shell(t, argv...); have != want {
		t.Errorf("bash completes to\n%s, want\n%s", have, want)
	}
}

// A file of zsh's function path completes at its first use, and each program has one.
func TestZshFunctions(t *testing.T) {
	for line, want := range map[string]string{"umlimg resi": "umlimg resize", "uml_moo --ke": "uml_moo --keep", "uml_mkcow -f one": "uml_mkcow -f one-disk.img"} {
		name, _, _ := strings.Cut(line, " ")
		driver := strings.Replace(oracle.ZshDriver, ". ./script.zsh;", "", 1)
		driver = strings.Replace(driver, "autoload -Uz compinit", "fpath=(./functions $fpath); autoload -Uz compinit", 1)
		out := shell(t, "zsh", "-f", "-c", "mkdir functions; $UMLIMG completion zsh "+name+" >functions/_"+name+"\n"+driver, "zsh", line)
		if strings.TrimRight(out, " \n") != want {
			t.Errorf("zsh completes %q to %q, want %q", line, out, want)
		}
	}
}

// The scripts know the options that the programs' pages have, and no others.
func TestProgramOptions(t *testing.T) {
	for _, p := range programs {
		text, err := os.ReadFile(filepath.Join(oracle.Root(t), "man", p.name+".1"))
		if err != nil {
			t.Fatal(err)
		}
		_, page, _ := strings.Cut(string(text), ".SH OPTIONS\n")
		page, _, _ = strings.Cut(page, ".SH EXIT")
		page = strings.ReplaceAll(page, `\-`, "-")
		for _, o := range p.options {
			if !regexp.MustCompile(`(?m)^\.B.* "?` + o.name + `[ "]?`).MatchString(page) {
				t.Errorf("%s of %s is not on its page", o.name, p.name)
			}
		}
		for _, m := range regexp.MustCompile(`(?m)^\.TP\n\.BI? (-[-a-z]+)`).FindAllStringSubmatch(page, -1) {
			if !slices.ContainsFunc(p.options, func(o programOption) bool { return o.name == m[1] }) && m[1] != "-h" {
				t.Errorf("%s of %s is not completed", m[1], p.name)
			}
		}
	}
}
