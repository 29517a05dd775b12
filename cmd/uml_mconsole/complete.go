package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/mconsole"
)

// commands are what the prompt completes to: the machine's commands and those done here.
var commands = []string{
	"cad", "config", "go", "halt", "help", "int", "log", "mconsole-version", "proc", "quit", "reboot", "remove", "stack", "stop", "switch",
	"sysrq", "version",
}

// options are those of the program.
var options = []string{"--completion", "--help", "--json", "--list", "--timeout"}

// procFiles are files in /proc that are often looked at.
var procFiles = []string{
	"cmdline", "cpuinfo", "devices", "diskstats", "filesystems", "interrupts", "loadavg", "meminfo", "mounts", "partitions", "stat", "uptime", "version",
}

// devices are what config and remove name.
func devices() []string {
	all := []string{"mem"}
	for n := range 16 {
		all = append(all, fmt.Sprint("ubd", n), fmt.Sprint("con", n), fmt.Sprint("ssl", n))
	}
	return all
}

// completeCommand returns what the last word of a command's beginning may become. The
// command's words are separated by blanks; an empty last word is one that begins.
func completeCommand(line string, dirs []string) []string {
	words := strings.Fields(line)
	last := ""
	if len(words) > 0 && !strings.HasSuffix(line, " ") {
		last, words = words[len(words)-1], words[:len(words)-1]
	}
	if len(words) == 0 {
		return beginning(last, commands)
	}
	switch words[0] {
	case "config", "remove":
		if len(words) > 1 {
			return nil
		}
		if unit, file, ok := strings.Cut(last, "="); ok {
			if words[0] == "remove" || !strings.HasPrefix(unit, "ubd") {
				return nil
			}
			// The image, or behind a COW file the backing file.
			at := strings.LastIndexAny(file, ",:") + 1
			return prefixed(unit+"="+file[:at], files(file[at:]))
		}
		return beginning(last, devices())
	case "switch":
		return append(beginning(last, umids(dirs)), files(last)...)
	case "sysrq":
		return beginning(last, strings.Split("0 1 2 3 4 5 6 7 8 9 b c e h i l m o s t u w", " "))
	case "proc":
		return beginning(last, procFiles)
	case "log":
		if len(words) == 1 {
			return beginning(last, []string{"-f"})
		}
		if len(words) == 2 && words[1] == "-f" {
			return files(last)
		}
	}
	return nil
}

// completeArguments is completeCommand for the program's own arguments, as a shell's
// script asks: the whole line up to the cursor.
func completeArguments(line string, dirs []string) []string {
	words := strings.Fields(line)
	last := ""
	if len(words) > 0 && !strings.HasSuffix(line, " ") {
		last, words = words[len(words)-1], words[:len(words)-1]
	}
	if len(words) > 0 {
		words = words[1:] // the program
	}
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		option := words[0]
		words = words[1:]
		switch option {
		case "--completion":
			if len(words) == 0 {
				return beginning(last, shells)
			}
			return nil
		case "--timeout":
			if len(words) == 0 {
				return nil // a number
			}
			words = words[1:]
		}
	}
	if len(words) == 0 {
		if strings.HasPrefix(last, "-") {
			return beginning(last, options)
		}
		return append(beginning(last, umids(dirs)), files(last)...)
	}
	return completeCommand(strings.Join(append(words[1:], last), " "), dirs)
}

// umids are the machines that have a socket below the directories.
func umids(dirs []string) []string {
	var names []string
	for _, m := range mconsole.Discover(dirs...) {
		if slices.Contains(dirs, filepath.Dir(m.Directory)) {
			names = append(names, m.UMID)
		}
	}
	return names
}

// files are the files whose paths begin so; a directory's ends in a slash.
func files(begin string) []string {
	dir, name := filepath.Split(begin)
	where := dir
	if where == "" {
		where = "."
	}
	entries, err := os.ReadDir(where)
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name) || name == "" && strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := dir + e.Name()
		if info, err := os.Stat(filepath.Join(where, e.Name())); err == nil && info.IsDir() {
			path += "/"
		}
		found = append(found, path)
	}
	return found
}

func beginning(word string, all []string) []string {
	var found []string
	for _, s := range all {
		if strings.HasPrefix(s, word) {
			found = append(found, s)
		}
	}
	return found
}

func prefixed(prefix string, all []string) []string {
	for i := range all {
		all[i] = prefix + all[i]
	}
	return all
}

// tab is what the key does at the prompt: it completes the word before the cursor as far
// as that is certain, and shows what is possible where it is not.
func (s *session) tab(line string, pos int, show io.Writer) (newLine string, newPos int, ok bool) {
	begin := line[:pos]
	found := completeCommand(begin, s.dirs)
	if len(found) == 0 {
		return "", 0, false
	}
	word := begin[strings.LastIndexByte(begin, ' ')+1:]
	common := found[0]
	for _, f := range found[1:] {
		for !strings.HasPrefix(f, common) {
			common = common[:len(common)-1]
		}
	}
	if len(found) == 1 && !strings.HasSuffix(common, "/") {
		common += " "
	}
	if common == word {
		printed := make([]string, len(found))
		for i, f := range found {
			printed[i] = oneField(f)
		}
		fmt.Fprintln(show, strings.Join(printed, "  "))
		return "", 0, false
	}
	begin = strings.TrimSuffix(begin, word) + common
	return begin + line[pos:], len(begin), true
}

var shells = []string{"bash", "zsh", "fish"}

// The scripts ask the program itself what can come next, for the line up to the cursor.
var completionScripts = map[string]string{
	"bash": `_uml_mconsole() {
	local line=${COMP_LINE:0:COMP_POINT} cur=${COMP_WORDS[COMP_CWORD]} word
	word=${line##* }
	mapfile -t COMPREPLY < <(uml_mconsole --complete "$line" 2>/dev/null)
	# Bash takes words apart at "=" and ":" as well.
	if [[ $word != "$cur" ]]; then
		local before=${word%"$cur"}
		[[ $cur == [=:] ]] && before=$word
		COMPREPLY=("${COMPREPLY[@]#"$before"}")
	fi
	[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}
complete -F _uml_mconsole uml_mconsole
`,
	"zsh": `#compdef uml_mconsole
_uml_mconsole() {
	local -a found
	found=("${(@f)$(uml_mconsole --complete "$LBUFFER" 2>/dev/null)}")
	[[ -n ${found[1]} ]] && compadd -U -- "${found[@]}"
}
compdef _uml_mconsole uml_mconsole
if [[ $funcstack[1] == _uml_mconsole ]]; then _uml_mconsole "$@"; fi
`,
	"fish": `complete -c uml_mconsole -f -a '(uml_mconsole --complete (commandline -cp | string collect) 2>/dev/null)'
`,
}

// completion prints the script of a shell.
func completion(shell string, out io.Writer) error {
	script, ok := completionScripts[shell]
	if !ok {
		return fmt.Errorf("--completion: no script for %s: bash, zsh or fish", strconv.Quote(shell))
	}
	_, err := io.WriteString(out, script)
	return err
}
