// Package tty is the guest's terminals: the consoles /dev/tty0 to /dev/tty15, the serial
// lines /dev/ttyS0 to /dev/ttyS15, and /dev/console, which is one of them.
//
// A terminal is a line discipline of the Sentry's with programs on one side and, on the
// other, a line to the host (package line) that a pump serves. A line is opened when the
// guest first opens its terminal. A terminal without a line, or with a null one, swallows
// what is written and never has input.
package tty

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/line"
)

// Count is how many terminals a family has.
const Count = 16

// A Wiring says which lines the terminals of a family have.
type Wiring struct {
	// Default is what "con=" says for all units that nothing else is said for.
	Default string
	// Units is what "con0=" and its like say.
	Units map[int]string
}

// Options say how terminals are made. The zero value joins tty0 to descriptors 0 and 1
// and leaves the others null.
type Options struct {
	// Host opens the lines. It must not be nil.
	Host *line.Host
	// Con and Ssl wire the consoles and the serial lines. Unless it is said, con0
	// is "fd:0,fd:1" and all others are "null".
	Con, Ssl Wiring
	// Console is the terminal that /dev/console is, without "/dev/": the last
	// console= of the command line. Empty is tty0.
	Console string
	// Logf takes what is said about lines in the kernel log. It may be nil.
	Logf func(format string, args ...any)
}

// family is a kind of terminals.
type family struct {
	// driver is the name on the command line, prefix that below /dev.
	driver, prefix string
	// minor is the first minor number.
	minor uint32
}

var families = [...]family{
	{driver: "con", prefix: "tty", minor: 0},
	{driver: "ssl", prefix: "ttyS", minor: 64},
}

// ttyMajor is the major number of all terminals.
const ttyMajor = 4

// Terminals are the terminals of one kernel. All methods may be called by any number of
// goroutines at once.
type Terminals struct {
	host *line.Host
	logf func(format string, args ...any)
	ctx  context.Context
	root *auth.Credentials

	// console is what /dev/console is.
	console *terminal
	// units are the terminals of each family.
	units [len(families)][Count]*terminal

	mu sync.Mutex
	// redirect is the terminal that TIOCCONS gave the console's output to, or nil.
	redirect *terminal
}

// New makes the terminals of a kernel. The context is one of that kernel's, and its
// credentials are root's. No line is opened yet.
func New(ctx context.Context, vfsObj *vfs.VirtualFilesystem, o Options) (*Terminals, error) {
	t := &Terminals{host: o.Host, logf: o.Logf, ctx: ctx, root: auth.CredentialsFromContext(ctx)}
	if t.logf == nil {
		t.logf = func(string, ...any) {}
	}
	for f, wiring := range []Wiring{o.Con, o.Ssl} {
		for unit := range Count {
			spec := wiring.Default
			if spec == "" {
				spec = "null"
				if f == 0 && unit == 0 {
					spec = "fd:0,fd:1"
				}
			}
			if own, ok := wiring.Units[unit]; ok {
				spec = own
			}
			pair, err := line.Parse(spec)
			if err == nil {
				err = t.host.Openable(pair)
			}
			if err != nil {
				return nil, fmt.Errorf("%s%d: %w", families[f].driver, unit, err)
			}
			t.units[f][unit] = newTerminal(t, vfsObj, &families[f], unit, pair)
		}
		for unit := range wiring.Units {
			if unit < 0 || unit >= Count {
				return nil, fmt.Errorf("%s%d: device number out of range", families[f].driver, unit)
			}
		}
	}
	name := o.Console
	if name == "" {
		name = "tty0"
	}
	if t.console = t.byName(name); t.console == nil {
		t.logf("console=%s: no such terminal, tty0 is taken", name)
		t.console = t.units[0][0]
	}
	return t, nil
}

// byName finds the terminal that is /dev/NAME, or gives nil. Options behind a comma, as
// in "ttyS0,115200", are passed over: a line here has no speed.
func (t *Terminals) byName(name string) *terminal {
	name, _, _ = strings.Cut(name, ",")
	for f := len(families) - 1; f >= 0; f-- {
		if digits, ok := strings.CutPrefix(name, families[f].prefix); ok {
			if n, err := strconv.ParseUint(digits, 10, 8); err == nil && n < Count {
				return t.units[f][n]
			}
		}
	}
	return nil
}

// Register registers the terminals and /dev/console with vfsObj. It is called once,
// before devtmpfs is mounted. /dev/tty is the Sentry's own.
func (t *Terminals) Register(vfsObj *vfs.VirtualFilesystem) error {
	for f := range families {
		for _, term := range t.units[f] {
			err := vfsObj.RegisterDevice(vfs.CharDevice, ttyMajor, term.minor, device{term: term}, &vfs.RegisterDeviceOptions{
				GroupName: families[f].prefix,
				Pathname:  term.name,
				FilePerms: 0620,
			})
			if err != nil {
				return fmt.Errorf("register terminal %s: %w", term.name, err)
			}
		}
	}
	err := vfsObj.RegisterDevice(vfs.CharDevice, linux.TTYAUX_MAJOR, 1, device{term: t.console, console: true}, &vfs.RegisterDeviceOptions{
		GroupName: "console",
		Pathname:  "console",
		FilePerms: 0600,
	})
	if err != nil {
		return fmt.Errorf("register the console: %w", err)
	}
	return nil
}

// device is a device number: a terminal, or the console that is one.
type device struct {
	term    *terminal
	console bool
}

// Open implements vfs.Device.Open. It needs no task, so that the first program's
// descriptors can be opened before there is one.
func (d device) Open(ctx context.Context, mnt *vfs.Mount, vfsd *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if d.console {
		// The console is nobody's controlling terminal.
		opts.Flags |= linux.O_NOCTTY
	}
	return d.term.open(ctx, mnt, vfsd, opts, d.console)
}

// Write implements io.Writer for the kernel log: it writes to the console, in order with
// what programs write there. It waits for nobody; what a slow reader has no room for is
// dropped.
func (t *Terminals) Write(p []byte) (int, error) {
	t.console.kernelWrite(p)
	return len(p), nil
}

// Drain waits until what was written to all terminals has reached the host. It gives up
// on a line that takes nothing for as long as patience, and says so.
func (t *Terminals) Drain(patience time.Duration) error {
	var errs []error
	for f := range families {
		for _, term := range t.units[f] {
			if err := term.drain(patience); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Close ends the pumps and closes the lines. It does not Drain. The kernel no longer
// runs.
func (t *Terminals) Close() error {
	for f := range families {
		for _, term := range t.units[f] {
			term.close()
		}
	}
	return nil
}

// Hangup is vhangup(2): it hangs up the calling task's controlling terminal.
func Hangup(task *kernel.Task) error {
	if !task.HasRootCapability(linux.CAP_SYS_TTY_CONFIG) {
		return linuxerr.EPERM
	}
	tty := task.ThreadGroup().GetTTY()
	if tty == nil {
		return nil
	}
	defer tty.DecRef(task)
	if term, ok := tty.TTYOperations.(*terminal); ok {
		term.hangup(task)
	} else {
		tty.Hangup(task)
	}
	return nil
}

// ProcStat is what /proc/PID/stat shows of a thread group's controlling terminal: its
// device number, as the kernel encodes it there, and its foreground process group in
// ns. They are 0 and -1 without one.
func ProcStat(tg *kernel.ThreadGroup, ns *kernel.PIDNamespace) (number int32, foreground int32) {
	tty := tg.TTY()
	if tty == nil {
		return 0, -1
	}
	major, minor := uint32(linux.UNIX98_PTY_REPLICA_MAJOR), tty.Index()
	if term, ok := tty.TTYOperations.(*terminal); ok {
		major, minor = ttyMajor, term.minor
	}
	foreground = -1
	if pg, err := tg.ForegroundProcessGroup(tty); err == nil && pg != nil {
		foreground = int32(ns.IDOfProcessGroup(pg))
	}
	return int32(deviceNumber(major, minor)), foreground
}

// deviceNumber is the kernel's own encoding of a device number, in 32 bits.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// Driver is the driver "con" or "ssl", nil for another name.
func (t *Terminals) Driver(name string) driver.Driver {
	for f := range families {
		if families[f].driver == name {
			return unitDriver{t, f}
		}
	}
	return nil
}

// unitDriver configures the terminals of one family while the guest runs.
type unitDriver struct {
	terminals *Terminals
	family    int
}

// unit finds a unit by its number.
func (d unitDriver) unit(unit string) (*terminal, error) {
	n, err := strconv.ParseUint(unit, 10, 31)
	if err != nil {
		return nil, driver.Errorf(driver.Unparsed, "Couldn't parse device number")
	}
	if n >= Count {
		return nil, driver.Errorf(driver.Unparsed, "device number out of range")
	}
	return d.terminals.units[d.family][n], nil
}

// Configure implements driver.Driver.
func (d unitDriver) Configure(unit, spec string) error {
	if unit == "" {
		return driver.Errorf(driver.Invalid, "Can't configure all devices from mconsole")
	}
	term, err := d.unit(unit)
	if err != nil {
		return err
	}
	pair, err := line.Parse(spec)
	if err != nil {
		return &driver.Error{Code: driver.BadPair, Text: "failed to parse channel pair", Err: err}
	}
	if err := d.terminals.host.Openable(pair); err != nil {
		return &driver.Error{Code: driver.BadPair, Text: err.Error(), Err: err}
	}
	return term.configure(pair)
}

// Describe implements driver.Driver.
func (d unitDriver) Describe(unit string) (string, error) {
	term, err := d.unit(unit)
	if err != nil {
		return "", err
	}
	return term.describe(), nil
}

// Remove implements driver.Driver: the unit's line becomes none.
func (d unitDriver) Remove(unit string) error {
	term, err := d.unit(unit)
	if err != nil {
		return err
	}
	return term.configure(line.Pair{In: line.End{Kind: line.None}, Out: line.End{Kind: line.None}})
}
