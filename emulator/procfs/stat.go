package procfs

import (
	"bytes"
	"strconv"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// statSource is /proc/PID/stat with the controlling terminal and the bounds of the code,
// which the Sentry leaves out.
type statSource struct {
	old      vfs.DynamicBytesSource
	task     *kernel.Task
	terminal Terminal
}

// Fields of /proc/PID/stat behind the name in parentheses, counted from 0.
const (
	statTTY       = 4
	statPGID      = 5
	statStartCode = 23
	statEndCode   = 24
)

// Generate implements vfs.DynamicBytesSource.Generate.
func (s *statSource) Generate(ctx context.Context, buf *bytes.Buffer) error {
	var old bytes.Buffer
	if err := s.old.Generate(ctx, &old); err != nil {
		return err
	}
	text := old.Bytes()
	end := bytes.LastIndexByte(text, ')')
	tty, foreground := s.terminal(s.task)
	fields := bytes.Fields(text[end+1:])
	if end < 0 || len(fields) <= statEndCode {
		buf.Write(text)
		return nil
	}
	fields[statTTY] = appendInt(nil, tty)
	fields[statPGID] = appendInt(nil, foreground)
	s.task.WithMuLocked(func(t *kernel.Task) {
		if t.MemoryManager() != nil {
			// What Linux shows to those who may not know more. Two zeros are a thread of
			// the kernel to killall5(8), which lets it live.
			fields[statStartCode], fields[statEndCode] = []byte{'1'}, []byte{'1'}
		}
	})
	buf.Write(text[:end+1])
	for _, f := range fields {
		buf.WriteByte(' ')
		buf.Write(f)
	}
	buf.WriteByte('\n')
	return nil
}

func appendInt(b []byte, n int32) []byte { return strconv.AppendInt(b, int64(n), 10) }
