package shell

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxShown bounds the list of completions that a second tab shows.
const maxShown = 200

// complete answers the tab key: it completes the word before the cursor as a
// command, when it is the first, or as a file.
func (ed *editor) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	start := strings.LastIndexAny(line[:pos], " \t;|&<>(=") + 1
	word := line[start:pos]
	before := strings.TrimRight(line[:start], " \t")
	first := before == "" || strings.ContainsAny(before[len(before)-1:], ";|&(")
	var found []string
	if first && !strings.Contains(word, "/") {
		found = ed.commands(word)
	} else {
		found = ed.files(word)
	}
	if len(found) == 0 {
		return line, pos, true
	}
	slices.Sort(found)
	found = slices.Compact(found)
	common := found[0]
	for _, f := range found[1:] {
		for !strings.HasPrefix(f, common) {
			_, n := utf8.DecodeLastRuneInString(common)
			common = common[:len(common)-n]
		}
	}
	if len(found) == 1 && !strings.HasSuffix(common, "/") {
		common += " "
	}
	if len(found) > 1 && common == word && len(found) <= maxShown {
		// The Terminal redraws its line after what is written between.
		go ed.term.Write([]byte(strings.Join(found, "  ") + "\n"))
	}
	return line[:start] + common + line[pos:], start + len(common), true
}

func (ed *editor) commands(prefix string) []string {
	var found []string
	for _, b := range []string{"cd", "exit", "export", "umask", "unset", "wait", "read", "set", "source", "alias"} {
		if strings.HasPrefix(b, prefix) {
			found = append(found, b)
		}
	}
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		entries, _ := os.ReadDir(dir) // a directory that is not there has no commands
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), prefix) {
				found = append(found, e.Name())
			}
		}
	}
	return found
}

func (ed *editor) files(word string) []string {
	dir, prefix := filepath.Split(word)
	where := dir
	if home := os.Getenv("HOME"); strings.HasPrefix(where, "~/") {
		where = home + where[1:]
	}
	if !filepath.IsAbs(where) {
		where = filepath.Join(ed.s.runner.Dir, where)
	}
	entries, _ := os.ReadDir(where)
	var found []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, prefix) || prefix == "" && name[0] == '.' || strings.ContainsAny(name, " \t\n'\"\\$") {
			continue
		}
		if st, err := os.Stat(filepath.Join(where, name)); err == nil && st.IsDir() {
			name += "/"
		}
		found = append(found, dir+name)
	}
	return found
}
