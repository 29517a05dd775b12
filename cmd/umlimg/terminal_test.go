package main

import "testing"

// No name of a file or from an image steers a terminal.
func TestNamesOnTerminals(t *testing.T) {
	_, terminal := newTerminal(t)
	for name, want := range map[string]struct{ shown, quoted string }{
		"plain name":  {"plain name", "plain name"},
		"Größe":       {"Größe", "Größe"},
		"a\x1b[31m\n": {"a?[31m?", `"a\x1b[31m\n"`},
		"csi\u009b1m": {"csi?1m", `"csi\u009b1m"`},
		"not\xfftext": {"not?text", `"not\xfftext"`},
		"\x7f":        {"?", `"\x7f"`},
	} {
		if got := shown(terminal, name); got != want.shown {
			t.Errorf("%q is shown as %q, not %q", name, got, want.shown)
		}
		if got := shown(nil, name); got != name {
			t.Errorf("off a terminal %q is %q", name, got)
		}
		if got := quoted(name); got != want.quoted {
			t.Errorf("%q is quoted as %s, not %s", name, got, want.quoted)
		}
	}
}
