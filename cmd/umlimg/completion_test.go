package main

import (
	"os"
	"os/exec"
	"path/filepath"
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
}

// shell runs a script of a shell in a directory with a disk, umlimg in its path.
func shell(t *testing.T, argv ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "one-disk.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"zsh", "fish"} {
		_, text, _ := call("completion", name)
		if err := os.WriteFile(filepath.Join(dir, "script."+name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(oracle.Tool(t, argv[0]), argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TERM=dumb", "HOME="+dir, "PATH="+filepath.Dir(guest.Binary(t, "umlimg"))+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
	return string(out)
}

// zshDriver types each argument and a tab into a zsh on a pty; a key shows what is in
// its line then.
const zshDriver = `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'unset zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; . ./script.zsh; bindkey "^I" complete-word
show() { print -r -- "$BUFFER" >>shown; BUFFER= }; zle -N show; bindkey "^X" show; print >ready'
wait_for() { repeat 1200 { zpty -rt z line >/dev/null 2>&1; eval "$1" && return; sleep 0.05 }; print "never: $1"; exit 1 }
wait_for '[[ -s ready ]]'
n=0
for line in "$@"; do
	zpty -wn z "$line"$'\t\x18'
	n=$((n + 1))
	wait_for '[[ -e shown && $(wc -l <shown) -ge n ]]'
done
cat shown`

func TestZshCompletion(t *testing.T) {
	argv := []string{"zsh", "-f", "-c", zshDriver, "zsh"}
	var want []string
	for line, whole := range completions {
		argv, want = append(argv, line), append(want, whole)
	}
	have := strings.Split(strings.TrimRight(shell(t, argv...), "\n"), "\n")
	if len(have) != len(want) {
		t.Fatalf("zsh shows %q", have)
	}
	for i := range want {
		if strings.TrimRight(have[i], " ") != want[i] {
			t.Errorf("zsh completes to %q, want %q", have[i], want[i])
		}
	}
}

func TestFishCompletion(t *testing.T) {
	for line, want := range completions {
		out := shell(t, "fish", "--no-config", "-c", "source script.fish; complete -C $argv[1]", line)
		word := want[strings.LastIndexByte(want, ' ')+1:]
		found := false
		for _, l := range strings.Split(out, "\n") {
			name, _, _ := strings.Cut(l, "\t")
			found = found || name == word
		}
		if !found {
			t.Errorf("fish completes %q to %q, want %q", line, out, word)
		}
	}
}
