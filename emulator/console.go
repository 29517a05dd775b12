package emulator

import (
	"bytes"
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// writeConsoles writes /proc/consoles.
func (m *Machine) writeConsoles(b *bytes.Buffer) {
	fmt.Fprintf(b, "%-20s -W- (EC  p a)    4:0\n", "tty0")
}

// terminalNumber is the device number of a controlling terminal.
func terminalNumber(t *kernel.TTY) (major, minor uint32) {
	return 136, t.Index()
}
