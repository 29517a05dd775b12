package emulator

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"github.com/umlkit/umlkit/emulator/hwrng"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/sysfs"
	"github.com/umlkit/umlkit/emulator/uevent"
)

// openGenerator configures the random number generator as the command line says, or else
// as a node of the device tree does.
func (m *Machine) openGenerator() {
	m.generator = hwrng.New(m.generatorChanged)
	said := false
	for _, setting := range m.config.Settings {
		if setting.Driver != hwrng.Name {
			continue
		}
		said = true
		if err := m.generator.Configure(setting.Unit, setting.Spec); err != nil {
			m.printk(klog.Err, "%s: %v", setting.Word, err)
		}
	}
	nodes := m.tree.Compatible(hwrng.Compatible)
	if said || len(nodes) == 0 {
		return
	}
	spec, err := hwrng.FromTree(nodes[0])
	if err == nil {
		err = m.generator.Configure("", spec)
	}
	if err != nil {
		m.printk(klog.Err, "hwrng: %v", err)
		return
	}
	m.printk(klog.Info, "hwrng: %s", spec)
}

// generatorChanged keeps /dev in step with the generator, and tells udev.
func (m *Machine) generatorChanged(present bool) {
	s := m.current()
	if s == nil {
		return
	}
	s.generatorNode(present)
	event := generatorEvent()
	if event.Action = "remove"; present {
		event.Action = "add"
	}
	s.uevents.Send(event)
}

// generatorNode makes or removes the node.
func (s *sentry) generatorNode(present bool) {
	s.deviceNode(hwrng.Name, hwrng.Major, hwrng.Minor, linux.S_IFCHR|hwrng.Mode, "", present)
}

// generatorEvent is what udev hears of the generator, but for what happened.
func generatorEvent() uevent.Event {
	return uevent.Event{Path: "/devices/virtual/misc/hw_random", Subsystem: "misc",
		Env: []string{fmt.Sprintf("MAJOR=%d", hwrng.Major), fmt.Sprintf("MINOR=%d", hwrng.Minor), "DEVNAME=" + hwrng.Name}}
}

// miscDevices are /sys/devices/virtual/misc, miscLinks the links to them in /sys/class/misc.
func (s *sentry) miscDevices() []sysfs.Entry {
	spec, _ := s.m.generator.Describe("")
	if spec == "" {
		return nil
	}
	return []sysfs.Entry{sysfs.Directory("hw_random",
		s.ueventFile(generatorEvent()),
		sysfs.File("dev", fmt.Sprintf("%d:%d\n", hwrng.Major, hwrng.Minor)),
		sysfs.File("rng_current", "umlkit\n"), sysfs.File("rng_available", "umlkit\n"),
		sysfs.Entry{Name: "subsystem", Link: "../../../../class/misc"})}
}

func (s *sentry) miscLinks() []sysfs.Entry {
	var links []sysfs.Entry
	for _, e := range s.miscDevices() {
		links = append(links, sysfs.Entry{Name: e.Name, Link: "../../devices/virtual/misc/" + e.Name})
	}
	return links
}
