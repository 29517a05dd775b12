// Command linux boots a guest as an ordinary process. See linux(1).
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/emulator"
	"github.com/umlkit/umlkit/emulator/cmdline"
	"github.com/umlkit/umlkit/emulator/line"
	"github.com/umlkit/umlkit/release"
)

func main() {
	// The first thread, whose name is the program's, starts no other: they have its name.
	runtime.LockOSThread()
	os.Exit(run(os.Args[1:]))
}

// run is the command, but for the end of the process. It returns the exit status.
func run(words []string) int {
	config, err := cmdline.Parse(words)
	if err != nil {
		return fail(err)
	}
	switch config.Action {
	case cmdline.Help:
		return print(cmdline.Usage())
	case cmdline.Version:
		return print(release.Name + "\n")
	case cmdline.ShowConfig:
		return print(showConfig())
	}
	if config.Action == cmdline.Join {
		if err := line.JoinWindow(config.Socket); err != nil {
			return fail(err)
		}
		return 0
	}
	if err := prepare(); err != nil {
		return fail(err)
	}
	// Before the machine opens anything: what it makes on the host it takes away again.
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	if !signal.Ignored(unix.SIGHUP) {
		// The terminal is gone; nohup has it go on.
		signal.Notify(end, unix.SIGHUP)
	}
	m, err := emulator.New(config)
	if err != nil {
		return fail(err)
	}
	go func() {
		for range end {
			m.Terminate()
		}
	}()
	if err := m.Boot(); err != nil {
		return fail(err)
	}
	exit, err := m.Wait()
	if err != nil {
		return fail(err)
	}
	switch exit.Reason {
	case emulator.Panicked:
		abort()
	case emulator.Signalled:
		return 1
	}
	return 0
}

// print is for what was asked for instead of a machine. It returns the exit status.
func print(text string) int {
	if _, err := os.Stdout.WriteString(text); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "linux: %v\n", err)
	return 1
}
