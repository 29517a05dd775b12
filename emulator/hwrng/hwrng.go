// Package hwrng is the guest's hardware random number generator, /dev/hwrng, which gives
// the bytes of a file of the host. rngd(8) of the guest reads it.
//
// It is also the example of docs/drivers.md: a small device in three parts. This file has
// the driver, which the command line, the management console and the device tree
// configure; device.go has what the guest opens; source.go has the host's side.
package hwrng

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/fdt"
)

// Compatible is what a node of the device tree calls itself that describes the generator.
// Its property source is the file, /dev/urandom without one, and rate-limit a number of
// bytes a second.
const Compatible = "umlkit,hwrng"

// Name is that of the node below /dev, Major and Minor are its numbers.
const (
	Name  = "hwrng"
	Major = 10
	Minor = 183
)

// Driver is the family "hwrng": one unit without a number, whose specification is
// FILE[,RATE]. It outlasts a restart of the guest. Its methods may be called by any
// number of goroutines at once.
type Driver struct {
	changed func(present bool)
	now     func() time.Time

	// queue tells those who wait that there are bytes again.
	queue waiter.Queue

	mu     sync.Mutex
	source *source // nil: the generator is not there
	open   int     // descriptors of the guest
	timer  *time.Timer
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver without a unit. changed is told when the unit comes and goes, for
// the node below /dev; it must not call the driver.
func New(changed func(present bool)) *Driver { return &Driver{changed: changed, now: time.Now} }

// Configure implements driver.Driver.
func (d *Driver) Configure(unit, spec string) error {
	if unit != "" {
		return driver.Errorf(driver.Unparsed, "Bad configuration option")
	}
	s, err := parse(spec)
	if err != nil {
		return driver.Errorf(driver.Invalid, "%w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.source != nil {
		return driver.Errorf(driver.Busy, "Device is already configured")
	}
	if err := s.open(); err != nil {
		return &driver.Error{Code: code(err), Text: err.Error(), Err: err}
	}
	s.left, s.then = s.rate, d.now()
	d.source = s
	d.changed(true)
	return nil
}

// code is the status of a file that cannot be opened.
func code(err error) driver.Code {
	status, _ := driver.Status(err)
	return status
}

// Describe implements driver.Driver.
func (d *Driver) Describe(unit string) (string, error) {
	if unit != "" {
		return "", driver.Errorf(driver.Unparsed, "Bad configuration option")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.source == nil {
		return "", nil
	}
	return d.source.String(), nil
}

// Remove implements driver.Driver.
func (d *Driver) Remove(unit string) error {
	if unit != "" {
		return driver.Errorf(driver.Unparsed, "Bad remove option")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.source == nil:
		return driver.Errorf(driver.NoDevice, "Device doesn't exist")
	case d.open > 0:
		return driver.Errorf(driver.Busy, "Device is currently open")
	}
	d.close()
	d.changed(false)
	return nil
}

// Close gives up the host's file, at the end of the machine.
func (d *Driver) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.close()
}

func (d *Driver) close() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.source != nil {
		_ = unix.Close(d.source.fd)
		d.source = nil
	}
}

// FromTree is the specification that a node of the device tree stands for.
func FromTree(n *fdt.Node) (string, error) {
	file := "/dev/urandom"
	if _, ok := n.Bytes("source"); ok {
		if file, ok = n.Text("source"); !ok {
			return "", fmt.Errorf("%s: source is not a string", n.Name)
		}
	}
	if _, ok := n.Bytes("rate-limit"); !ok {
		return file, nil
	}
	rate, ok := n.Cell("rate-limit")
	if !ok {
		return "", fmt.Errorf("%s: rate-limit is not a number of 32 bits", n.Name)
	}
	return fmt.Sprintf("%s,%d", file, rate), nil
}

// maxRate is the greatest bound, in bytes a second; it is as good as none.
const maxRate = 1 << 40

// parse reads FILE[,RATE]. What stands behind the last comma and is no rate belongs to the
// file's name.
func parse(spec string) (*source, error) {
	s := &source{file: spec}
	if i := strings.LastIndexByte(spec, ','); i >= 0 {
		digits, unit := spec[i+1:], int64(1)
		if d, ok := strings.CutSuffix(digits, "K"); ok {
			digits, unit = d, 1<<10
		} else if d, ok := strings.CutSuffix(digits, "M"); ok {
			digits, unit = d, 1<<20
		}
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
			if n < 1 || n > maxRate/unit {
				return nil, fmt.Errorf("%s: a rate is 1 to %d bytes a second", spec[i+1:], int64(maxRate))
			}
			s.file, s.rate = spec[:i], n*unit
		}
	}
	if s.file == "" {
		return nil, fmt.Errorf("the name of a file is missing")
	}
	return s, nil
}
