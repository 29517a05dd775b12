// Package cmdline reads the command line of a kernel.
//
// A line is made of words. A word that the option table knows sets a field of the
// Config; any other word of the form NAME=VALUE goes into the environment of init,
// any other word and all that follows "--" become its arguments. Later words win.
// The table is also what --help prints and what the options part of linux(1) says.
package cmdline

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what the line asks for besides booting.
type Action int

// What a line can ask for.
const (
	Boot       Action = iota // start the machine
	Help                     // --help: print Usage and end
	Version                  // --version: print the release and end
	ShowConfig               // --showconfig: print what this build holds and end
	Join                     // --join-window: give this terminal to the machine on Config.Socket
)

// Setting is one device's configuration as a driver takes it: the driver's name, the
// unit with its flags ("0", "ar") and what stands after "=" or ":". A unit is empty
// when the setting is for all units.
type Setting struct {
	Driver, Unit, Spec string
	// Word is the whole word, for messages.
	Word string
}

// Sysctl is a value for a file below /proc/sys.
type Sysctl struct {
	Name  string // as it was given: "vm.swappiness"
	Value string
}

// Path is the file below /proc/sys.
func (s Sysctl) Path() string { return strings.ReplaceAll(s.Name, ".", "/") }

// Config is a command line that was read. Its zero value is not bootable: Parse fills
// in the defaults.
type Config struct {
	// Words is the line as it was given, without the program's name.
	Words []string

	Action Action

	// Socket is that of a machine that asked for a window.
	Socket string

	// Memory is the guest's memory in bytes, CPUs its processors.
	Memory int64
	CPUs   int

	// Ext4Cache bounds the metadata that an ext4 filesystem keeps in memory, in bytes;
	// 0 means an eighth of Memory.
	Ext4Cache int64

	// Settings configures devices, in the line's order.
	Settings []Setting

	// Root names the root device; empty means the first block device. RootType is
	// empty when any type that fits will do, RootFlags are its mount options.
	Root, RootType, RootFlags string
	// RootWrite is whether the root is mounted for writing: rw; the default and ro
	// is reading, and init remounts.
	RootWrite bool
	// RootWait is whether to wait until the root device is there, for RootWaitLimit
	// seconds if that is not 0.
	RootWait      bool
	RootWaitLimit int
	// RootDelay is how many seconds to wait before mounting the root.
	RootDelay int

	// HostDir is the directory of the host that hostfs is confined to; empty means the
	// whole tree. With HostAppend files there may only grow.
	HostDir    string
	HostAppend bool

	// DTB is the file of a flattened device tree.
	DTB string

	// Sysctls are values for files below /proc/sys, in the line's order.
	Sysctls []Sysctl

	// Strace is what system calls are logged of which tasks, and StraceFile the file
	// of the host where, in place of the kernel log.
	Strace, StraceFile string

	// Initrd is a cpio archive that becomes the first root; RdInit its program.
	Initrd, RdInit string

	// Init is the program named by init=; empty means the usual places. Args are its
	// arguments without its name, Env its environment.
	Init string
	Args []string
	Env  []string

	// Console is the device that /dev/console stands for ("tty0"), empty for the
	// default.
	Console string

	// Xterm is xterm=: what opens windows. It is empty for the default.
	Xterm string

	// UMID and UMLDir name the machine's directory; empty means a random name and
	// ~/.uml. Notify is the socket of mconsole=notify:.
	UMID, UMLDir, Notify string

	// LogLevel is the least important level, exclusive, that reaches the console:
	// 7 by default, 4 after quiet, 10 after debug.
	LogLevel int

	// EveryMessage has every message reach the console, whatever LogLevel says.
	EveryMessage bool

	// PrintTime has lines of the kernel log begin with the time on the console.
	PrintTime bool

	// PanicTimeout is panic=: 0 stops with SIGABRT, below 0 reboots at once, above 0
	// after that many seconds. NoReboot ends the process where it would boot again.
	PanicTimeout int
	NoReboot     bool

	// Intercept is seccomp=: "auto", "on" or "off".
	Intercept string
	// Platform is platform=: "auto", which leaves it to Intercept, "own", "systrap",
	// "ptrace" or "kvm".
	Platform string

	// HostName is the node name until init sets one; empty means "(none)".
	HostName string

	// Notes are lines for the kernel log about words that were taken and have no
	// effect, or were taken for a mistake.
	Notes []string

	// Unknown are the words that went to init.
	Unknown []string
}

// DefaultMemory is the guest's memory when mem= is not given, in bytes, as in User
// Mode Linux.
const DefaultMemory = 64 << 20

// Error is a word that cannot be obeyed.
type Error struct {
	Word   string // the word as it was given
	Reason string // what is wrong, and what would be right
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Word, e.Reason) }

// Parse reads a command line: os.Args without the program's name. The error is an
// *Error.
func Parse(words []string) (*Config, error) {
	c := &Config{
		Words:     words,
		Memory:    DefaultMemory,
		CPUs:      1,
		LogLevel:  7,
		Intercept: "auto",
		Platform:  "auto",
		Env:       []string{"HOME=/", "TERM=linux"},
	}
	for i, word := range words {
		if word == "--" {
			c.Args = append(c.Args, words[i+1:]...)
			break
		}
		if err := c.word(word); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Ext4CacheBytes is Ext4Cache, or what it stands for when it is 0.
func (c *Config) Ext4CacheBytes() int64 {
	if c.Ext4Cache != 0 {
		return c.Ext4Cache
	}
	return c.Memory / 8
}

// word obeys one word before "--".
func (c *Config) word(word string) error {
	if word == "" {
		return nil
	}
	for i := range Options {
		o := &Options[i]
		unit, value, ok := o.match(word)
		if !ok {
			continue
		}
		if o.apply == nil {
			c.Notes = append(c.Notes, word+": "+o.Note)
			return nil
		}
		if reason := o.apply(c, setting{word, unit, unquote(value)}); reason != "" {
			return &Error{Word: word, Reason: reason}
		}
		return nil
	}
	c.foreign(word)
	return nil
}

// unquote takes the double quotes off a value, which the kernel allows around one
// that holds blanks.
func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// String is the line as /proc/cmdline shows it: the words with a blank between them,
// one that holds blanks in double quotes (after its "=", if there is one). As in real
// kernels console=tty0 is added where no console is named.
func (c *Config) String() string {
	words := c.Words
	if c.Console == "" {
		end := slices.Index(words, "--")
		if end < 0 {
			end = len(words)
		}
		words = slices.Insert(slices.Clone(words), end, "console=tty0")
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

func quote(word string) string {
	if !strings.ContainsAny(word, " \t\n") {
		return word
	}
	if name, value, ok := strings.Cut(word, "="); ok && !strings.ContainsAny(name, " \t\n") {
		return name + "=\"" + unquote(value) + "\""
	}
	return "\"" + word + "\""
}
