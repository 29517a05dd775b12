package main

import (
	"fmt"

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
	zshCompletion = `#compdef umlimg
_umlimg() {
	local -a asked=("${(@)words[1,CURRENT-1]}") found
	[[ ${words[CURRENT]} == -* ]] && asked+=("${words[CURRENT]}")
	found=("${(@f)$("${asked[@]}" --generate-bash-completion 2>/dev/null)}")
	[[ -n ${found[1]} ]] && compadd -- "${found[@]}"
	[[ ${words[CURRENT]} == -* ]] || _files
}
compdef _umlimg umlimg
`
)

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell",
		Category:  "umlimg itself",
		ArgsUsage: "bash|zsh|fish",
		Description: `. <(umlimg completion bash)
umlimg completion fish >~/.config/fish/completions/umlimg.fish`,
		BashComplete: func(c *cli.Context) {
			if c.NArg() == 0 {
				fmt.Fprint(c.App.Writer, "bash\nzsh\nfish\n")
			}
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef("completion: name one shell: bash, zsh or fish")
			}
			var text string
			switch c.Args().First() {
			case "bash":
				text = bashCompletion
			case "zsh":
				text = zshCompletion
			case "fish":
				var err error
				if text, err = c.App.ToFishCompletion(); err != nil {
					return err
				}
				text += "\ncomplete -c umlimg -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n"
			default:
				return usagef("completion: no script for %q: bash, zsh or fish", c.Args().First())
			}
			_, err := fmt.Fprint(c.App.Writer, text)
			return err
		},
	}
}
