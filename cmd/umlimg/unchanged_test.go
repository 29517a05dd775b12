package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"rsc.io/script"
)

// statusCommand is a command of scripts: "status N ARGUMENT..." runs umlimg, which has to
// end with status N, and "unchanged N ARGUMENT..." with no file in the script's directory,
// changed, made or gone: content, length, times, mode and blocks.
func statusCommand(unchanged bool) script.Cmd {
	return script.Command(
		script.CmdUsage{Summary: "run umlimg, and look at its exit status", Args: "status [args...]"},
		func(s *script.State, args ...string) (script.WaitFunc, error) {
			if len(args) < 2 {
				return nil, script.ErrUsage
			}
			want, err := strconv.Atoi(args[0])
			if err != nil {
				return nil, err
			}
			var before map[string]string
			if unchanged {
				if before, err = snapshot(s.Getwd()); err != nil {
					return nil, err
				}
			}
			cmd := exec.CommandContext(s.Context(), os.Args[0], args[1:]...)
			cmd.Dir, cmd.Env = s.Getwd(), s.Environ()
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err = cmd.Run()
			var exit *exec.ExitError
			got := 0
			if errors.As(err, &exit) {
				got = exit.ExitCode()
				err = nil
			}
			if err == nil && got != want {
				err = fmt.Errorf("status %d, want %d", got, want)
			}
			if err == nil && strings.Count(stderr.String(), "\n") > 1 {
				err = errors.New("more than one line on stderr")
			}
			if err == nil && unchanged {
				err = compareSnapshots(s.Getwd(), before)
			}
			return func(*script.State) (string, string, error) { return stdout.String(), stderr.String(), err }, nil
		})
}

// snapshot describes every file below a directory.
func snapshot(dir string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		// A file without a name can need one for a moment.
		text := fmt.Sprintf("mode %o", st.Mode)
		if d.Type().IsRegular() {
			sum, err := contentSum(path)
			if err != nil {
				return err
			}
			// After it, as the host decides late where data lies.
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			text = fmt.Sprintf("mode %o, %d bytes in %d blocks, modified %v, changed %v, %x", st.Mode, st.Size, st.Blocks, st.Mtim, st.Ctim, sum)
		}
		all[path] = text
		return nil
	})
	return all, err
}

// contentSum makes a file stable, and sums up what of it is not zeros and where that is:
// holes take no time. Which zeros are holes is for the host to change.
func contentSum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return nil, err
	}
	sum := sha256.New()
	var block [4096]byte
	for off := int64(0); ; {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return sum.Sum(nil), nil
		}
		if err != nil {
			return nil, err
		}
		if off, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		for at := data / 4096 * 4096; at < off; at += 4096 {
			n, err := f.ReadAt(block[:], at)
			if err != nil && err != io.EOF {
				return nil, err
			}
			if block != [4096]byte{} {
				fmt.Fprint(sum, at)
				sum.Write(block[:n])
			}
			clear(block[:])
		}
	}
}

func compareSnapshots(dir string, before map[string]string) error {
	after, err := snapshot(dir)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(before))
	for name := range after {
		if _, ok := before[name]; !ok {
			return fmt.Errorf("%s has appeared", name)
		}
	}
	for _, name := range names {
		if before[name] != after[name] {
			return fmt.Errorf("%s has changed:\nbefore %s\nafter  %s", name, before[name], after[name])
		}
	}
	return nil
}
