package system

import (
	"fmt"
	"os"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// The three ways down are one command: init is asked by a signal to shut
// down, as busybox's is; with -f the kernel is told at once.

// Poweroff powers the machine off.
func Poweroff(e *applet.Env, args []string) error {
	return down(args, unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Halt stops the machine.
func Halt(e *applet.Env, args []string) error {
	return down(args, unix.SIGUSR1, unix.LINUX_REBOOT_CMD_HALT)
}

// Reboot restarts the machine.
func Reboot(e *applet.Env, args []string) error {
	return down(args, unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART)
}

func down(args []string, signal unix.Signal, command int) error {
	var force, noSync bool
	var o applet.Options
	o.Bool(&force, 'f', "force")
	o.Bool(&noSync, 'n', "no-sync")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) > 0 {
		return applet.Usagef("unexpected operand %s", applet.Quote(operands[0]))
	}
	if !force && os.Getpid() != 1 {
		if err := unix.Kill(1, signal); err != nil {
			return fmt.Errorf("cannot signal init: %s", applet.Reason(err))
		}
		return nil
	}
	if !noSync {
		unix.Sync()
	}
	return unix.Reboot(command)
}
