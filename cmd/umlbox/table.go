package main

import (
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/boot"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/shell"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/system"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/text"
)

// applets is sorted by name. It is static data: no code runs to build it.
var applets = [...]applet.Applet{
	{Name: "blkid", Usage: "[DEVICE]...", Help: "Show what is on block devices.", Run: system.Blkid},
	{Name: "cat", Usage: "[-nbE] [FILE]...", Help: "Copy files to standard output.", Run: file.Cat},
	{Name: "echo", Usage: "[-neE] [WORD]...", Help: "Write words.", Run: text.Echo},
	{Name: "getty", Usage: "[-iLn] [-a USER] [-l PROGRAM] TTY [BAUD] [TERM]", Help: "Open a terminal and start login on it.", Run: boot.Getty},
	{Name: "halt", Usage: "[-fn]", Help: "Stop the machine.", Run: system.Halt},
	{Name: "init", Usage: "[-c COMMAND] [single]", Help: "Be process 1; for others: tell it 0 (power off), 6 (reboot) or q (read inittab).", Run: boot.Init},
	{Name: "login", Usage: "[-fp] [USER]", Help: "Check a password and start the user's shell.", Run: boot.Login},
	{Name: "ls", Usage: "[-1AacCdFghiLlnopqRrSstuUX] [--full-time] [FILE]...", Help: "List directories.", Run: file.Ls, Trouble: 2},
	{Name: "mount", Usage: "[-arw] [-t TYPE] [-o OPTIONS] [SOURCE] [TARGET]", Help: "Mount a file system, or show what is mounted.", Run: system.Mount},
	{Name: "poweroff", Usage: "[-fn]", Help: "Power the machine off.", Run: system.Poweroff},
	{Name: "reboot", Usage: "[-fn]", Help: "Restart the machine.", Run: system.Reboot},
	{Name: "sh", Usage: "[-aefilnsux] [-o OPTION] [-c COMMAND [NAME]] [FILE] [ARGUMENT]...", Help: "The shell.", Run: shell.Sh, Trouble: 2},
	{Name: "su", Usage: "[-lmp] [-s SHELL] [-c COMMAND] [-] [USER [ARGUMENT]...]", Help: "Become another user.", Run: boot.Su},
	{Name: "umount", Usage: "[-aflr] [-t TYPE] TARGET...", Help: "Unmount file systems.", Run: system.Umount},
}
