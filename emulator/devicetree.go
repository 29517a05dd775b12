package emulator

import (
	"gvisor.dev/gvisor/pkg/abi/linux"

	"github.com/umlkit/umlkit/emulator/fdt"
	"github.com/umlkit/umlkit/emulator/klog"
	"github.com/umlkit/umlkit/emulator/sysfs"
)

// treePath is where the device tree is below /sys.
const treePath = "firmware/devicetree/base"

// openTree reads the device tree of dtb=. One that cannot be read is missing, and the
// kernel log says why.
func (m *Machine) openTree() {
	if m.config.DTB == "" {
		return
	}
	tree, err := fdt.ReadFile(m.config.DTB)
	if err != nil {
		m.printk(klog.Err, "invalid DTB: %v", err)
		return
	}
	m.tree = tree
	if model, ok := tree.Root.Text("model"); ok {
		m.printk(klog.Info, "Machine model: %s", model)
	}
}

// firmware is /sys/firmware.
func (m *Machine) firmware() []sysfs.Entry {
	if m.tree == nil {
		return nil
	}
	return []sysfs.Entry{
		sysfs.Directory("devicetree", sysfs.Entry{Name: "base", Dir: treeFiles(m.tree.Root)}),
		{Name: "fdt", Data: m.tree.Blob, Perm: 0o400},
	}
}

// treeFiles is the directory of a node.
func treeFiles(n *fdt.Node) func() []sysfs.Entry {
	return func() []sysfs.Entry {
		files := n.Files()
		entries := make([]sysfs.Entry, len(files))
		for i, f := range files {
			entries[i] = sysfs.Entry{Name: f.Name}
			if f.Node != nil {
				entries[i].Dir = treeFiles(f.Node)
			} else {
				entries[i].Data, entries[i].Perm = append([]byte{}, f.Value...), treePerm(f.Name)
			}
		}
		return entries
	}
}

// treePerm are a property's permissions: what is called security-… is root's to read.
func treePerm(name string) linux.FileMode {
	if len(name) >= 9 && name[:9] == "security-" {
		return 0o400
	}
	return 0o444
}
