package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// The scripts of bash and zsh ask the program itself for what can come next, with the library's hidden
// option.
const (
	bashCompletion = `_umlimg() {
	local cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:0:COMP_CWORD}")
	if [[ $cur == -* ]]; then
		words+=("$cur")
	fi
	mapfile -t COMPREPLY < <(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur")
}
complete -o bashdefault -o default -F _umlimg umlimg
`
	zshCompletion = `_umlimg() {
	local -a asked=("${(@)words[1,CURRENT-1]}") found
	[[ ${words[CURRENT]} == -* ]] && asked+=("${words[CURRENT]}")
	found=("${(@f)$("${asked[@]}" --generate-bash-completion 2>/dev/null)}")
	[[ -n ${found[1]} ]] && compadd -- "${found[@]}"
	[[ ${words[CURRENT]} == -* ]] || _files
}
compdef _umlimg umlimg
`
	fishCompletion = `complete -c umlimg -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'
`
)

// program is another of the disk tools. Its command line is a historic one: letters, a few
// words, and files.
type program struct {
	name    string
	options []programOption
}

type programOption struct {
	name  string // with its dashes
	usage string
	file  bool // it takes one
}

var programs = []program{
	{"uml_moo", []programOption{
		{"-b", "the backing file to take", true}, {"-d", "merge into the backing file", false}, {"--keep", "leave the COW file as it is", false},
		{"--no-sync", "do not wait for the disk", false}, {"--help", "show help", false},
	}},
	{"uml_mkcow", []programOption{{"-f", "replace a COW file that exists", false}}},
}

func (p program) names() string {
	var names []string
	for _, o := range p.options {
		names = append(names, o.name)
	}
	return strings.Join(names, " ")
}

func (p program) bash() string {
	return fmt.Sprintf(`_%[1]s() {
	if [[ ${COMP_WORDS[COMP_CWORD]} == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "%[2]s" -- "${COMP_WORDS[COMP_CWORD]}")
	fi
}
complete -o bashdefault -o default -F _%[1]s %[1]s
`, p.name, p.names())
}

func (p program) zsh() string {
	return fmt.Sprintf(`_%[1]s() {
	if [[ ${words[CURRENT]} == -* ]]; then
		compadd -- %[2]s
	else
		_files
	fi
}
compdef _%[1]s %[1]s
`, p.name, p.names())
}

func (p program) fish() string {
	var b strings.Builder
	for _, o := range p.options {
		kind, name := "s", o.name[1:]
		if strings.HasPrefix(name, "-") {
			kind, name = "l", name[1:]
		}
		file := ""
		if o.file {
			file = " -r -F"
		}
		fmt.Fprintf(&b, "complete -c %s -%s %s%s -d '%s'\n", p.name, kind, name, file, o.usage)
	}
	return b.String()
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell, for all the disk tools or for one",
		Category:  "umlimg itself",
		ArgsUsage: "bash|zsh|fish [PROGRAM]",
		Description: `. <(umlimg completion bash)
umlimg completion fish uml_moo >~/.config/fish/completions/uml_moo.fish`,
		BashComplete: func(c *cli.Context) {
			switch c.NArg() {
			case 0:
				fmt.Fprint(c.App.Writer, "bash\nzsh\nfish\n")
			case 1:
				fmt.Fprint(c.App.Writer, "umlimg\numl_moo\numl_mkcow\n")
			}
		},
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 || c.NArg() > 2 {
				return usagef("completion: name one shell, and at most one program: umlimg completion bash|zsh|fish [PROGRAM]")
			}
			text, err := completionScript(c.App, c.Args().Get(0), c.Args().Get(1))
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.App.Writer, text)
			return err
		},
	}
}

// completionScript is the script of a shell for one program, or with "" for all.
func completionScript(app *cli.App, shell, only string) (string, error) {
	var text, own string
	var of func(program) string
	switch shell {
	case "bash":
		own, of = bashCompletion, program.bash
	case "zsh":
		own, of = zshCompletion, program.zsh
		text = "#compdef umlimg uml_moo uml_mkcow\n"
		if only != "" {
			text = "#compdef " + only + "\n"
		}
	case "fish":
		script, err := app.ToFishCompletion()
		if err != nil {
			return "", err
		}
		var names []string
		for _, c := range app.Commands {
			names = append(names, c.Name)
		}
		own = fmt.Sprintf("%s\n%scomplete -c umlimg -n '__fish_seen_subcommand_from help' -f -a '%s'\n", script, fishCompletion, strings.Join(names, " "))
		of = program.fish
	default:
		return "", usagef("completion: no script for %s: bash, zsh or fish", quoted(shell))
	}
	known := only == "" || only == app.Name
	if known {
		text += own
	}
	for _, p := range programs {
		if only == "" || only == p.name {
			text, known = text+of(p), true
		}
	}
	if !known {
		return "", usagef("completion: no script for %s: umlimg, uml_moo or uml_mkcow; uml_mconsole has its own --completion", quoted(only))
	}
	if shell == "zsh" {
		// Read from the path of functions, the file is the function of its own name.
		text += "if [[ $funcstack[1] == _uml(img|_moo|_mkcow) ]]; then $funcstack[1] \"$@\"; fi\n"
	}
	return text, nil
}
