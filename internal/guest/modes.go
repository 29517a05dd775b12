package guest

import "golang.org/x/sys/unix"

// Modes are the modes of the machine's terminal.
func (m *Machine) Modes() unix.Termios {
	m.t.Helper()
	modes, err := unix.IoctlGetTermios(int(m.pty.Fd()), unix.TCGETS)
	if err != nil {
		m.t.Fatalf("modes of the terminal: %v", err)
	}
	return *modes
}
