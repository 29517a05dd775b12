package emulator

import (
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/ubd"
)

// openDisks opens the block devices of the command line. One that fails is missing,
// and the kernel log says why.
func (m *Machine) openDisks() {
	m.disks = ubd.New(ubd.Options{Logf: m.logf, Changed: m.disksChanged})
	for _, setting := range m.config.Settings {
		if setting.Driver != "ubd" {
			continue
		}
		if err := m.disks.Configure(setting.Unit, setting.Spec); err != nil {
			m.printk(klog.Err, "%s", ubd.BootError(setting.Unit, err))
		}
	}
}

// disksChanged keeps /dev in step with the disks, and tells udev.
func (m *Machine) disksChanged(nodes []ubd.Node, added bool) {
	if s := m.current(); s != nil {
		for _, n := range nodes {
			s.node(n, added)
			if n.Link == "" {
				event := diskEvent(ubd.Info{Name: n.Name, Major: n.Major, Minor: n.Minor, Partition: n.Partition})
				if event.Action = "add"; !added {
					event.Action = "remove"
				}
				s.uevents.Send(event)
			}
		}
	}
}
