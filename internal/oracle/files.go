package oracle

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// State describes the files of a directory, a line each: what they are, how long, and
// when they changed. Two that are equal say that nothing was done there.
func State(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Name()), &st); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%q mode %o, %d bytes, modified %v, changed %v\n", e.Name(), st.Mode, st.Size, st.Mtim, st.Ctim)
	}
	return b.String()
}

// HoldsPage holds that man/NAME.1 is sound, and has the options that known says there
// are, and no others: letters, and the words of the usage and of the page.
func HoldsPage(t testing.TB, name, usage string, known func(option string) bool) {
	t.Helper()
	path := filepath.Join(Root(t), "man", name+".1")
	Run(t, Tool(t, "mandoc"), "-Tlint", "-W", "warning", path)
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
