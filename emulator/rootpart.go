package emulator

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/emulator/hostfs"
	"github.com/umlkit/umlkit/emulator/klog"
)

// rootPoll is how often rootwait looks for the root.
const rootPoll = 20 * time.Millisecond

// waitForRoot is findRoot, which with rootwait waits until the device is there: the
// management console can add it.
func (s *sentry) waitForRoot() (major, minor uint32, ended *ending, err error) {
	m := s.m
	end := time.Now().Add(time.Duration(m.config.RootWaitLimit) * time.Second)
	for said := false; ; {
		major, minor, err = m.findRoot(m.config.Root)
		if !m.config.RootWait || m.config.RootType == hostfs.Name || err == nil && (m.isDisk(major, minor) || m.exports.at(major, minor) != nil) {
			return major, minor, nil, err
		}
		if !said {
			m.printk(klog.Info, "Waiting for root device %s...", m.config.Root)
			said = true
		}
		if m.config.RootWaitLimit > 0 && time.Now().After(end) {
			m.printk(klog.Err, "Timed out waiting for root device %s", m.config.Root)
			return major, minor, nil, err
		}
		if ended = s.wait(rootPoll); ended != nil {
			return major, minor, ended, nil
		}
	}
}

// isDisk says that a device number is that of a disk or partition that is there.
func (m *Machine) isDisk(major, minor uint32) bool {
	for _, d := range m.disks.List() {
		if d.Major == major && d.Minor == minor {
			return true
		}
	}
	return false
}

// partitionWith finds the partition that PARTUUID= or PARTLABEL= names. Behind a PARTUUID
// can stand /PARTNROFF=N: the partition whose number is larger by N.
func (m *Machine) partitionWith(name string) (major, minor uint32, err error) {
	key, want, _ := strings.Cut(name, "=")
	offset := 0
	if id, text, ok := strings.Cut(want, "/PARTNROFF="); ok && key == "PARTUUID" {
		if offset, err = strconv.Atoi(text); err != nil {
			return 0, 0, fmt.Errorf("PARTNROFF=%s is no number", text)
		}
		want = id
	}
	list := m.disks.List()
	for _, d := range list {
		p := d.Partition
		if p.Number == 0 || key == "PARTUUID" && !strings.EqualFold(p.UUID, want) || key == "PARTLABEL" && p.Name != want || want == "" {
			continue
		}
		if offset == 0 {
			return d.Major, d.Minor, nil
		}
		for _, q := range list {
			if q.Partition.Number == p.Number+offset && q.Partition.Number > 0 && diskUnit(q) == diskUnit(d) {
				return q.Major, q.Minor, nil
			}
		}
		return 0, 0, fmt.Errorf("no partition %d on the disk of this PARTUUID", p.Number+offset)
	}
	return 0, 0, fmt.Errorf("no partition has this %s", key)
}
