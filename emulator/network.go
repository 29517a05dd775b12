package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/netconf"
	"github.com/umlkit/umlkit/emulator/nic"
	"github.com/umlkit/umlkit/emulator/uevent"
	"github.com/umlkit/umlkit/emulator/vec"
)

// openNetwork opens the network devices of the command line. One that is wrong is missing,
// and the kernel log says why.
func (m *Machine) openNetwork() {
	name := ""
	if m.umid != nil {
		name = m.umid.name
	}
	family := func(name, machine string) *vec.Driver {
		return vec.New(vec.Options{Family: name, Machine: machine, Logf: m.logf, Changed: m.networkChanged, InUse: m.networkInUse})
	}
	m.vecs, m.eths = family(vec.Name, name), family(vec.Legacy, name)
	for _, setting := range m.config.Settings {
		d := map[string]*vec.Driver{vec.Name: m.vecs, vec.Legacy: m.eths}[setting.Driver]
		if d == nil {
			continue
		}
		if err := d.Configure(setting.Unit, setting.Spec); err != nil {
			m.printk(klog.Err, "%s%s: %v", setting.Driver, setting.Unit, err)
		}
	}
}

// networkStack is the stack of the first network namespace.
func (s *sentry) networkStack() *netstack.Stack {
	n, _ := s.k.RootNetworkNamespace().Stack().(*netstack.Stack)
	return n
}

// addNetwork gives the kernel the devices that there are. One that comes at the same time
// is added once.
func (s *sentry) addNetwork() {
	for _, p := range append(s.m.vecs.Ports(), s.m.eths.Ports()...) {
		if err := s.addPort(p); err != nil {
			s.m.printk(klog.Err, "%s: %v", p.Name, err)
		}
	}
}

// addPort makes the interface of a device.
func (s *sentry) addPort(p *nic.Port) error {
	n := s.networkStack()
	id, added, err := nic.Add(p, n.Stack)
	if err != nil {
		return fmt.Errorf("make the interface: %w", err)
	}
	if added {
		netconf.Tell(s.ctx, s.k.RootNetworkNamespace(), n, id)
		s.netUevent("add", p.Name, id)
	}
	return nil
}

// netUevent tells udev of an interface.
func (s *sentry) netUevent(action, name string, id tcpip.NICID) {
	event := netEvent(name, int32(id))
	event.Action = action
	s.uevents.Send(event)
}

// netEvent is what udev hears of an interface, but for what happened.
func netEvent(name string, index int32) uevent.Event {
	return uevent.Event{
		Path:      "/devices/virtual/net/" + name,
		Subsystem: "net",
		Env:       []string{"INTERFACE=" + name, fmt.Sprintf("IFINDEX=%d", index)},
	}
}

// interfaceOf is the interface of a device in the kernel that runs, 0 without one: it may
// have another name by now, and be in another namespace, where it is not looked for.
func (s *sentry) interfaceOf(p *nic.Port) (id tcpip.NICID, info stack.NICInfo) {
	for id, info := range s.networkStack().Stack.NICInfo() {
		if e, ok := info.Context.(*nic.Endpoint); ok && e.Port() == p {
			return id, info
		}
	}
	return 0, info
}

// networkInUse says whether the guest has a device up.
func (m *Machine) networkInUse(p *nic.Port) bool {
	s := m.current()
	if s == nil {
		return false
	}
	id, _ := s.interfaceOf(p)
	return id != 0 && s.networkStack().Stack.CheckNIC(id) || id == 0 && p.Attached()
}

// networkChanged gives the running kernel a device, or takes it away.
func (m *Machine) networkChanged(p *nic.Port, added bool) error {
	s := m.current()
	if s == nil {
		return nil
	}
	if added {
		return s.addPort(p)
	}
	id, info := s.interfaceOf(p)
	if id == 0 {
		return nil
	}
	if err := s.networkStack().RemoveInterface(s.ctx, int32(id)); err != nil {
		return fmt.Errorf("remove %s: %w", info.Name, err)
	}
	s.netUevent("remove", info.Name, id)
	return nil
}
