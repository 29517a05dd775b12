package emulator

import (
	"bytes"
	"fmt"
)

// interrupts writes /proc/interrupts: what came from the host, counted where a real
// kernel would have been interrupted for it, under its numbers.
func (s *sentry) interrupts(b *bytes.Buffer) {
	con, ssl := s.terminals.Traffic("con"), s.terminals.Traffic("ssl")
	fmt.Fprintf(b, "           %-11s\n", "CPU0")
	for _, line := range []struct {
		number int
		count  int64
		name   string
	}{
		{2, s.m.disks.Requests(), "ubd"},
		{5, s.managed.Load(), "mconsole"},
		{20, con.Out.Load(), "console-write"},
		{21, con.In.Load(), "console"},
		{22, ssl.Out.Load(), "ssl-write"},
		{23, ssl.In.Load(), "ssl"},
	} {
		fmt.Fprintf(b, "%4d: %10d  SIGIO           %s\n", line.number, line.count, line.name)
	}
}
