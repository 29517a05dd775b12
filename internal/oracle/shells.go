package oracle

import (
	"strings"
	"testing"
)

// ZshDriver types each argument and a tab into a zsh on a pty; a key shows what is in
// its line then.
const ZshDriver = `zmodload zsh/zpty zsh/system
zpty z zsh -f -i
fd=$REPLY
zpty -w z 'KEYTIMEOUT=1; unset zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; . ./script.zsh; bindkey "^I" complete-word
show() { print -r -- "$BUFFER" >>shown; BUFFER= }; zle -N show; bindkey "^X" show; print >ready'
wait_for() { repeat 6000 { sysread -t 0.01 -i $fd line; eval "$1" && return }; print "never: $1"; exit 1 }
wait_for '[[ -s ready ]]'
n=0
for line in "$@"; do
	zpty -wn z "$line"$'\t\x18'
	n=$((n + 1))
	wait_for '[[ -e shown && $(wc -l <shown) -ge n ]]'
done
cat shown`

// HoldsZsh holds that zsh completes each line to another. shell runs a shell with its
// arguments where script.zsh is, and returns what it prints.
func HoldsZsh(t testing.TB, shell func(argv ...string) string, completions map[string]string) {
	t.Helper()
	argv := []string{"zsh", "-f", "-c", ZshDriver, "zsh"}
	var want []string
	for line, whole := range completions {
		argv, want = append(argv, line), append(want, whole)
	}
	have := strings.Split(strings.TrimRight(shell(argv...), "\n"), "\n")
	if len(have) != len(want) {
		t.Fatalf("zsh shows %q", have)
	}
	for i := range want {
		if strings.TrimRight(have[i], " ") != want[i] {
			t.Errorf("zsh completes to %q, want %q", have[i], want[i])
		}
	}
}

// HoldsFish is HoldsZsh for fish and script.fish.
func HoldsFish(t testing.TB, shell func(argv ...string) string, completions map[string]string) {
	t.Helper()
	for line, want := range completions {
		out := shell("fish", "--no-config", "-c", "source script.fish; complete -C $argv[1]", line)
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
