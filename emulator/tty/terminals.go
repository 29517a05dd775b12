// Package tty is the guest's terminals: the consoles /dev/tty0 to /dev/tty15, the serial
// lines /dev/ttyS0 to /dev/ttyS63, and /dev/console, which is one of them.
//
// A terminal is a line discipline with programs on one side and, on the other, a line to
// the host (package line) that a pump serves. A line is opened when the guest first opens
// its terminal, and hangs up when the host's side ends. A terminal with a null line
// swallows what is written and never has input; one without a line (none) is not there.
package tty

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	// is "fd:0,fd:1", other consoles are Fallback and serial lines are "null".
	Con, Ssl Wiring
	// Fallback is empty for "null".
	Fallback string
	// Console is the terminal that /dev/console is, without "/dev/": the last
	// console= of the command line. Empty is tty0.
	Console string
	// Machine is the machine's name, for the titles of windows.
	Machine string
	// Logf takes what is said about lines in the kernel log. It may be nil.
	Logf func(format string, args ...any)
	// Changed is told of a terminal that is there from now on, or no longer. It may
	// be nil.
	Changed func(Node, bool)
	// Sysrq does what a key of the magic sysrq asks for, which came behind a break on
	// the line of the console. Without it a break is the guest's.
	Sysrq func(key byte)
}

// Traffic counts the pieces of input and output that passed between terminals and
// their lines.
type Traffic struct{ In, Out atomic.Int64 }

// Traffic is that of a driver, "con" or "ssl".
func (t *Terminals) Traffic(driver string) *Traffic {
	for f := range families {
		if families[f].driver == driver {
			return &t.traffic[f]
		}
	}
	return new(Traffic)
}

// Node is a terminal that is there.
type Node struct {
	// Name is its name below /dev.
	Name         string
	Major, Minor uint32
}

// NodeMode is the mode of a terminal's node.
const NodeMode = 0o620

// family is a kind of terminals.
type family struct {
	// driver is the name on the command line, prefix that below /dev.
	driver, prefix string
	// minor is the first minor number, count how many there are.
	minor uint32
	count int
	// title names a unit in the log, window in the title of its window.
	title, window string
}

var families = [...]family{
	{driver: "con", prefix: "tty", minor: 0, count: 16, title: "Virtual console", window: "Virtual Console"},
	{driver: "ssl", prefix: "ttyS", minor: 64, count: 64, title: "Serial line", window: "Serial Line"},
}

// index is the family's place among the families.
func (f *family) index() int {
	if f == &families[1] {
		return 1
	}
	return 0
}

// Count is how many units a driver has: "con" or "ssl".
func Count(driver string) int {
	for f := range families {
		if families[f].driver == driver {
			return families[f].count
		}
	}
	return 0
}

// ttyMajor is the major number of all terminals.
const ttyMajor = 4

// Terminals are the terminals of one kernel. All methods may be called by any number of
// goroutines at once.
type Terminals struct {
	host    *line.Host
	logf    func(format string, args ...any)
	notify  func(Node, bool)
	machine string
	ctx     context.Context
	root    *auth.Credentials
	sysrq   func(key byte)
	traffic [len(families)]Traffic

	// console is what /dev/console is.
	console *terminal
	// units are the terminals of each family.
	units [len(families)][]*terminal
	// interrupted ends waits that no task can be woken from.
	interrupted chan struct{}
	interrupt   sync.Once

	mu sync.Mutex
	// redirect is the terminal that TIOCCONS gave the console's output to, or nil.
	redirect *terminal
}

// New makes the terminals of a kernel. The context is one of that kernel's, and its
// credentials are root's. Ports are listened on and ptys made; other lines are not opened
// yet.
func New(ctx context.Context, o Options) (*Terminals, error) {
	t := &Terminals{host: o.Host, logf: o.Logf, machine: o.Machine, ctx: ctx, root: auth.CredentialsFromContext(ctx), interrupted: make(chan struct{}), sysrq: o.Sysrq}
	if t.logf == nil {
		t.logf = func(string, ...any) {}
	}
	for f, wiring := range []Wiring{o.Con, o.Ssl} {
		for unit := range families[f].count {
			t.units[f] = append(t.units[f], newTerminal(t, &families[f], unit))
			spec := wiring.Default
			if spec == "" && f == 0 {
				spec = o.Fallback
				if unit == 0 {
					spec = "fd:0,fd:1"
				}
			}
			if own, ok := wiring.Units[unit]; ok {
				spec = own
			}
			if spec == "" {
				spec = "null"
			}
			if err := (unitDriver{t, f}).Configure(strconv.Itoa(unit), spec); err != nil {
				if cause := errors.Unwrap(err); cause != nil {
					err = cause
				}
				_ = t.Close()
				return nil, fmt.Errorf("%s%d: %w", families[f].driver, unit, err)
			}
		}
		for unit := range wiring.Units {
			if unit < 0 || unit >= families[f].count {
				_ = t.Close()
				return nil, fmt.Errorf("%s%d: device number out of range: they are 0 to %d", families[f].driver, unit, families[f].count-1)
			}
		}
	}
	t.notify = o.Changed
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

// Console is the name of the terminal that is /dev/console.
func (t *Terminals) Console() string { return t.console.name }

// changed tells of a terminal that came or went.
func (t *Terminals) changed(term *terminal, present bool) {
	if t.notify != nil {
		t.notify(Node{term.name, ttyMajor, term.minor}, present)
	}
}

// Nodes are the terminals that are there.
func (t *Terminals) Nodes() []Node {
	var nodes []Node
	for f := range families {
		for _, term := range t.units[f] {
			term.mu.Lock()
			if term.pair != noLine {
				nodes = append(nodes, Node{term.name, ttyMajor, term.minor})
			}
			term.mu.Unlock()
		}
	}
	return nodes
}

// Interrupt ends every wait for the other end of a line that is not a program's own, now
// and later: the kernel ends.
func (t *Terminals) Interrupt() {
	t.interrupt.Do(func() { close(t.interrupted) })
}

// byName finds the terminal that is /dev/NAME, or gives nil. Options behind a comma, as
// in "ttyS0,115200", are passed over: a line here has no speed.
func (t *Terminals) byName(name string) *terminal {
	name, _, _ = strings.Cut(name, ",")
	for f := len(families) - 1; f >= 0; f-- {
		if digits, ok := strings.CutPrefix(name, families[f].prefix); ok {
			if n, err := strconv.ParseUint(digits, 10, 8); err == nil && int(n) < families[f].count {
				return t.units[f][n]
			}
		}
	}
	return nil
}

// Register registers the terminals and /dev/console with vfsObj, those too that are not
// there, because the Sentry cannot unregister a device: they answer ENXIO. It is called
// once, before devtmpfs is mounted, which makes the nodes of those that are. /dev/tty is
// the Sentry's own.
func (t *Terminals) Register(vfsObj *vfs.VirtualFilesystem) error {
	for f := range families {
		for _, term := range t.units[f] {
			path := term.name
			if term.pair == noLine {
				path = ""
			}
			err := vfsObj.RegisterDevice(vfs.CharDevice, ttyMajor, term.minor, device{term: term}, &vfs.RegisterDeviceOptions{
				GroupName: families[f].prefix,
				Pathname:  path,
				FilePerms: NodeMode,
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

// unitDriver configures the terminals of one family, before the guest runs and while it
// does.
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
	if n >= uint64(families[d.family].count) {
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
	if err := term.configure(pair); err != nil {
		var refusal *driver.Error
		if errors.As(err, &refusal) {
			return err
		}
		return &driver.Error{Code: driver.BadPair, Text: err.Error(), Err: err}
	}
	return nil
}

// Describe implements driver.Driver.
func (d unitDriver) Describe(unit string) (string, error) {
	term, err := d.unit(unit)
	if err != nil {
		return "", err
	}
	return term.describe(), nil
}

// Remove implements driver.Driver: the unit's line becomes none, and the unit goes.
func (d unitDriver) Remove(unit string) error {
	term, err := d.unit(unit)
	if err != nil {
		return err
	}
	return term.configure(noLine)
}
