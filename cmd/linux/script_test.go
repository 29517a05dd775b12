package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"rsc.io/script"
	"rsc.io/script/scripttest"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// TestMain is linux itself when the scripts run it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_LINUX") != "" {
		main()
	}
	os.Exit(m.Run())
}

// limit is how long a machine may take on a host that does much else.
const limit = 2 * time.Minute

// TestScripts holds the rows of the command line's reference. A script has these commands
// besides the usual ones:
//
//	ours STATUS WORD...   boots our kernel, which has to end so
//	both STATUS WORD...   boots ours and a real one
//	says PATTERN          each kernel that was booted last wrote that to its console
//	hides PATTERN         none of them did
//	image FILE            an ext4 of 16M with busybox and an /sbin/init that runs /script
//	archive FILE          the same as a cpio archive with /init
//
// The script that a machine runs is the file "script", which is written before.
func TestScripts(t *testing.T) {
	engine := script.NewEngine()
	engine.Cmds = scripttest.DefaultCmds()
	for _, name := range []string{"truncate", "tune2fs", "gzip", "blkid", "dd", "ln"} {
		engine.Cmds[name] = script.Program(oracle.Tool(t, name), nil, 10*time.Second)
	}
	linux := guest.Binary(t, "linux")
	engine.Cmds["linux"] = script.Program(linux, nil, 10*time.Second)
	c := &consoles{last: make(map[string][]string)}
	engine.Cmds["ours"] = c.boot(linux)
	engine.Cmds["both"] = c.boot(linux, oracle.RealUML(t))
	engine.Cmds["says"] = c.look(true)
	engine.Cmds["hides"] = c.look(false)
	engine.Cmds["image"] = rootCommand(t, "image", func(dir, out string) {
		oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, out, "16M")
	})
	engine.Cmds["archive"] = rootCommand(t, "archive", func(dir, out string) {
		cmd := exec.Command("sh", "-c", "find . | "+oracle.Tool(t, "cpio")+" -o --quiet -H newc >"+out)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("cpio: %v\n%s", err, text)
		}
	})
	scripttest.Test(t, t.Context(), engine, os.Environ(), "testdata/*.txt")
}

// consoles keeps what the machines of each script wrote last.
type consoles struct {
	sync.Mutex
	last map[string][]string // by the script's directory
}

// boot is a command that boots kernels.
func (c *consoles) boot(kernels ...string) script.Cmd {
	return script.Command(script.CmdUsage{Summary: "boot a machine", Args: "status word..."}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		if len(args) < 1 {
			return nil, script.ErrUsage
		}
		want, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, script.ErrUsage
		}
		return func(s *script.State) (string, string, error) {
			var all []string
			for _, kernel := range kernels {
				out, status, err := runMachine(s, kernel, args[1:])
				all = append(all, out)
				if err == nil && status != want {
					err = fmt.Errorf("%s ended with status %d, not %d", kernel, status, want)
				}
				if err != nil {
					return strings.Join(all, ""), "", err
				}
			}
			c.Lock()
			defer c.Unlock()
			c.last[s.Getwd()] = all
			return strings.Join(all, ""), "", nil
		}, nil
	})
}

// look is a command that looks into each console.
func (c *consoles) look(there bool) script.Cmd {
	return script.Command(script.CmdUsage{Summary: "look for a pattern on each console", Args: "pattern", RegexpArgs: func(...string) []int { return []int{0} }}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		if len(args) != 1 {
			return nil, script.ErrUsage
		}
		pattern, err := regexp.Compile("(?m)" + args[0])
		if err != nil {
			return nil, err
		}
		c.Lock()
		defer c.Unlock()
		for i, out := range c.last[s.Getwd()] {
			if pattern.MatchString(out) != there {
				return nil, fmt.Errorf("kernel %d: that %q is on the console is not %v", i+1, pattern, there)
			}
		}
		return nil, nil
	})
}

// runMachine boots one kernel with its first console as output. A word that begins with
// con takes the place of that.
func runMachine(s *script.State, kernel string, words []string) (string, int, error) {
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	all := []string{"mem=64M", "uml_dir=" + s.Getwd()}
	if !strings.Contains(" "+strings.Join(words, " "), " con") {
		all = append(all, "con=null", "con0=null,fd:1")
	}
	cmd := exec.CommandContext(ctx, kernel, append(all, words...)...)
	cmd.Dir, cmd.Env = s.Getwd(), append(s.Environ(), "DISPLAY=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	text := strings.ReplaceAll(out.String(), "\r\n", "\n")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return text, 0, err
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return text, 128 + int(status.Signal()), nil
	}
	return text, status.ExitStatus(), nil
}

// rootCommand makes a root of Debian's busybox and the script, and has it packed.
func rootCommand(t *testing.T, name string, pack func(dir, out string)) script.Cmd {
	return script.Command(script.CmdUsage{Summary: "make an " + name, Args: "file"}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		if len(args) != 1 {
			return nil, script.ErrUsage
		}
		dir := filepath.Join(s.Getwd(), name+".root")
		for _, sub := range []string{"bin", "sbin", "dev", "proc", "sys", "mnt", "etc"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
				return nil, err
			}
		}
		body, err := os.ReadFile(filepath.Join(s.Getwd(), "script"))
		if err != nil {
			return nil, err
		}
		text := "#!/bin/busybox sh\nPATH=/bin\nbusybox mount -t proc proc /proc\nbusybox mount -t sysfs sysfs /sys\n" + string(body) + "\nbusybox poweroff -f\n"
		busybox, err := os.ReadFile(oracle.Tool(t, "busybox"))
		if err != nil {
			return nil, err
		}
		place := "#!" + filepath.Join(dir, "bin/busybox") + " sh\necho in place of /\n" + filepath.Join(dir, "bin/busybox") + " poweroff -f\n"
		for file, data := range map[string][]byte{"bin/busybox": busybox, "init": []byte(text), "sbin/init": []byte(text), "in-place": []byte(place)} {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o755); err != nil {
				return nil, err
			}
			if err := unix.Chmod(filepath.Join(dir, file), 0o755); err != nil {
				return nil, err
			}
		}
		for _, applet := range []string{"cat", "ls", "mount", "sh", "stat", "echo", "grep", "head", "tail", "env"} {
			link := filepath.Join(dir, "bin", applet)
			if err := os.Symlink("busybox", link); err != nil && !os.IsExist(err) {
				return nil, err
			}
		}
		pack(dir, s.Path(args[0]))
		return nil, nil
	})
}

// What is asked for instead of a machine goes to a full disk: it says so, and fails.
func TestFullStdout(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, word := range []string{"--help", "--version", "--showconfig"} {
		cmd := exec.Command(os.Args[0], word)
		cmd.Env = append(os.Environ(), "RUN_LINUX=1")
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &stderr
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 || stderr.String() != "linux: write /dev/stdout: no space left on device\n" {
			t.Errorf("%s: status %d, %q", word, cmd.ProcessState.ExitCode(), &stderr)
		}
	}
}
