package emulator

import (
	"strconv"

	"github.com/umlkit/umlkit/emulator/cmdline"
	"github.com/umlkit/umlkit/emulator/driver"
)

// memoryDriver is the family "mem": one unit without a number, whose size changes while
// the machine runs.
type memoryDriver struct{ s *sentry }

var _ driver.Driver = memoryDriver{}

// Configure adds or takes memory: "+64M", "-64M".
func (d memoryDriver) Configure(unit, spec string) error {
	if unit != "" {
		return driver.Errorf(driver.Unparsed, "Bad configuration option")
	}
	if spec == "" || spec[0] != '+' && spec[0] != '-' {
		return driver.Errorf(driver.Invalid, "Expected increment to start with '-' or '+'")
	}
	n, err := cmdline.Amount(spec[1:])
	if err != nil {
		return driver.Errorf(driver.Invalid, "mem: %w", err)
	}
	return d.s.memory.change(n, spec[0] == '-')
}

// change adds n bytes to what guests may use, or takes them.
func (m *memory) change(n int64, take bool) error {
	for {
		old := m.size.Load()
		size := old + n
		if take {
			size = old - n
		}
		if size < cmdline.MinMemory || size > cmdline.MaxMemory || n > cmdline.MaxMemory {
			return driver.Errorf(driver.Invalid, "mem would be %d bytes: between %d and %d is possible", size, int64(cmdline.MinMemory), int64(cmdline.MaxMemory))
		}
		if m.size.CompareAndSwap(old, size) {
			return nil
		}
	}
}

// Describe is the size in bytes.
func (d memoryDriver) Describe(unit string) (string, error) {
	if unit != "" {
		return "", driver.Errorf(driver.Unparsed, "Bad configuration option")
	}
	return strconv.FormatInt(d.s.memory.size.Load(), 10), nil
}

// Remove refuses: a machine has memory.
func (d memoryDriver) Remove(string) error {
	return driver.Errorf(driver.Busy, "Memory cannot be removed, only made less: config mem=-SIZE")
}
