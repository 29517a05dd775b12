package procfs

import (
	"bytes"
	"strconv"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// statSource is /proc/PID/stat with the controlling terminal, which the Sentry leaves
// out.
type statSource struct {
	old      vfs.DynamicBytesSource
	task     *kernel.Task
	terminal func(*kernel.TTY) (major, minor uint32)
}

// Fields of /proc/PID/stat behind the name in parentheses, counted from 0.
const (
	statTTY  = 4
	statPGID = 5
)

// Generate implements vfs.DynamicBytesSource.Generate.
func (s *statSource) Generate(ctx context.Context, buf *bytes.Buffer) error {
	var old bytes.Buffer
	if err := s.old.Generate(ctx, &old); err != nil {
		return err
	}
	text := old.Bytes()
	end := bytes.LastIndexByte(text, ')')
	tty, foreground := s.controlling()
	fields := bytes.Fields(text[end+1:])
	if end < 0 || len(fields) <= statPGID {
		buf.Write(text)
		return nil
	}
	fields[statTTY] = appendInt(nil, tty)
	fields[statPGID] = appendInt(nil, foreground)
	buf.Write(text[:end+1])
	for _, f := range fields {
		buf.WriteByte(' ')
		buf.Write(f)
	}
	buf.WriteByte('\n')
	return nil
}

// controlling is the number of the task's terminal and of the process group in its
// foreground, 0 and -1 without a terminal.
func (s *statSource) controlling() (tty, foreground int64) {
	tg := s.task.ThreadGroup()
	t := tg.TTY()
	if t == nil || s.terminal == nil {
		return 0, -1
	}
	major, minor := s.terminal(t)
	// The order of bits of new_encode_dev.
	tty = int64(minor&0xff | major<<8 | minor&^0xff<<12)
	foreground = -1
	if group, err := tg.ForegroundProcessGroup(t); err == nil && group != nil {
		foreground = int64(s.task.PIDNamespace().IDOfProcessGroup(group))
	}
	return tty, foreground
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
