// Package vec is the family of the guest's vector network devices: vecN is an interface
// over a transport. ethN is one in the older words. Units outlast a restart of the guest; each boot has them anew in its
// stack, down.
package vec

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/nic"
	"github.com/umlkit/umlkit/emulator/transport"
)

// Name is the family's name, and Legacy that of the family with the older words for the
// same devices: ethN=tuntap,tap0.
const (
	Name   = "vec"
	Legacy = "eth"
)

// maxUnit is the greatest number of a unit.
const maxUnit = 1<<20 - 1

// Options say what the units of a machine have in common.
type Options struct {
	// Family is Name or Legacy.
	Family string
	// Machine is what addresses are made from: a machine of the same name has the same.
	Machine string
	Logf    func(format string, args ...any)
	// Changed is told when a unit comes and goes while a guest runs. It must not call the
	// driver. Its error takes a unit that came back.
	Changed func(p *nic.Port, added bool) error
	// InUse says whether the guest has the interface of a port up.
	InUse func(p *nic.Port) bool
}

// Driver is the family. Its methods may be called by any number of goroutines at once.
type Driver struct {
	Options

	mu    sync.Mutex
	units map[int]*unit
	// identities are who the units are to their other sides, and which has each.
	identities map[string]*unit
}

// unit is one device.
type unit struct {
	number int
	text   string // as it was given
	spec   transport.Spec
	port   *nic.Port
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver without units.
func New(o Options) *Driver {
	return &Driver{Options: o, units: map[int]*unit{}, identities: map[string]*unit{}}
}

// Configure implements driver.Driver. A device whose other side is not there is made all
// the same, and looks for it when the guest brings it up.
func (d *Driver) Configure(name, spec string) error {
	n, spec, err := parseUnit(name, spec)
	if err != nil {
		return err
	}
	s, err := d.parse(n, spec)
	if err != nil {
		return driver.Errorf(driver.Invalid, "%w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.units[n] != nil {
		return driver.Errorf(driver.Busy, "Device is already configured")
	}
	id := s.Identity()
	if other := d.identities[id]; other != nil {
		return driver.Errorf(driver.Busy, "%s has %s already", other.port.Name, id)
	}
	u := &unit{number: n, text: spec, spec: s}
	u.port = nic.New(nic.Options{
		Name:     d.Family + strconv.Itoa(n),
		MAC:      d.address(n, s.MAC),
		MTU:      uint32(s.MTU),
		Headroom: uint16(s.Headroom),
		Segments: s.GRO,
		Open:     u.spec.Open,
		Logf:     d.Logf,
	})
	if err := u.port.Connect(); err != nil {
		d.Logf("%s: %v; it is tried again when the interface is brought up", u.port.Name, err)
	}
	if err := d.Changed(u.port, true); err != nil {
		_ = u.port.Close()
		return driver.Errorf(driver.Invalid, "%w", err)
	}
	d.units[n] = u
	if id != "" {
		d.identities[id] = u
	}
	return nil
}

// parse reads a specification in the family's words. What the older ones mean is logged.
func (d *Driver) parse(n int, spec string) (transport.Spec, error) {
	if d.Family != Legacy {
		return transport.Parse(spec)
	}
	text, note, err := transport.Translate(spec)
	if err != nil {
		return transport.Spec{}, err
	}
	d.Logf("eth%d=%s is vec%d:%s", n, spec, n, text)
	if note != "" {
		d.Logf("eth%d: %s", n, note)
	}
	return transport.Parse(text)
}

// parseUnit takes apart "0" and "transport=…", or, as the management console cuts it,
// "0:transport" and what stands behind the "=".
func parseUnit(name, spec string) (int, string, error) {
	if number, option, ok := strings.Cut(name, ":"); ok {
		name, spec = number, option+"="+spec
	}
	n, err := strconv.Atoi(name)
	if err != nil || n < 0 || n > maxUnit || strconv.Itoa(n) != name {
		return 0, "", driver.Errorf(driver.Unparsed, "%s: not the number of a device, 0 to %d", name, maxUnit)
	}
	return n, spec, nil
}

// Describe implements driver.Driver.
func (d *Driver) Describe(name string) (string, error) {
	n, _, err := parseUnit(name, "")
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if u := d.units[n]; u != nil {
		return u.text, nil
	}
	return "", nil
}

// Remove implements driver.Driver. A device that is up is in use.
func (d *Driver) Remove(name string) error {
	n, _, err := parseUnit(name, "")
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.units[n]
	if u == nil {
		return driver.Errorf(driver.NoDevice, "Device doesn't exist")
	}
	if d.InUse(u.port) {
		return driver.Errorf(driver.Busy, "Device is currently open")
	}
	if err := d.Changed(u.port, false); err != nil {
		return driver.Errorf(driver.Busy, "%w", err)
	}
	delete(d.units, n)
	delete(d.identities, u.spec.Identity())
	_ = u.port.Close()
	return nil
}

// Ports are the devices by their numbers, for a stack that begins.
func (d *Driver) Ports() []*nic.Port {
	d.mu.Lock()
	defer d.mu.Unlock()
	units := make([]*unit, 0, len(d.units))
	for _, u := range d.units {
		units = append(units, u)
	}
	slices.SortFunc(units, func(a, b *unit) int { return cmp.Compare(a.number, b.number) })
	ports := make([]*nic.Port, len(units))
	for i, u := range units {
		ports[i] = u.port
	}
	return ports
}

// Close gives up all devices, at the end of the machine.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for n, u := range d.units {
		if err := u.port.Close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.port.Name, err))
		}
		delete(d.units, n)
	}
	return errors.Join(errs...)
}

// address is the one that was given, or else one of the machine's: administered locally,
// and the same at its next boot.
func (d *Driver) address(n int, given net.HardwareAddr) tcpip.LinkAddress {
	if given != nil {
		return tcpip.LinkAddress(given)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s%d", d.Machine, d.Family, n))
	sum[0] = sum[0]&^3 | 2
	return tcpip.LinkAddress(sum[:6])
}
