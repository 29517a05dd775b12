package emulator

import (
	"os"

	"github.com/umlkit/umlkit/emulator/hostfs"
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
			if m.exports.take(err) {
				continue
			}
			m.printk(klog.Err, "%s", ubd.BootError(setting.Unit, setting.Spec, err))
		}
	}
	m.openDefaultDisk()
}

// defaultDisk is the file of the first disk when the command line has none for it.
const defaultDisk = "root_fs"

// openDefaultDisk opens it, if it is there. A machine that has no other root says that it
// is not.
func (m *Machine) openDefaultDisk() {
	other := m.config.Initrd != "" || m.config.RootType == hostfs.Name || m.config.RootWait
	for _, setting := range m.config.Settings {
		if setting.Driver == "ubd" && setting.Unit != "" {
			s, err := ubd.Parse(setting.Unit, setting.Spec)
			if err == nil && s.Unit == 0 {
				return
			}
			other = true
		}
	}
	if _, err := os.Stat(defaultDisk); err != nil && other {
		return
	}
	if err := m.disks.Configure("0", defaultDisk); err != nil && !m.exports.take(err) {
		m.printk(klog.Err, "%s", ubd.BootError("0", defaultDisk, err))
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
