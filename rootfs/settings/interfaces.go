package settings

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// DefaultInterface is the network device of a guest that has one.
const DefaultInterface = "vec0"

// Interfaces are the network interfaces that a guest configures as it boots. An absent
// device does not hold the boot up.
type Interfaces struct {
	// DHCP is the device that asks for its address.
	DHCP string

	// File is instead the text of the configuration: of /etc/network/interfaces, or of
	// a systemd.network(5) file, which begins with a section. Name is the name it came
	// under.
	File []byte
	Name string
}

func (Interfaces) String() string { return "interfaces" }

const (
	interfacesPath = "/etc/network/interfaces"
	networkdDir    = "/etc/systemd/network/"
)

// CheckInterface says what is wrong with the name of a network device.
func CheckInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("/:%*?[]#\\", r)
	}) {
		return fmt.Errorf("%q is no name for a network device: 1 to 15 letters and digits", name)
	}
	return nil
}

// Apply implements Setting.
func (s Interfaces) Apply(t *tree.Tree) error {
	networkd := t.Exists("/lib/systemd/systemd-networkd") && !t.Exists("/sbin/ifup") && !t.Exists("/usr/sbin/ifup")
	if s.DHCP == "" {
		if isNetworkd(s.File) {
			name := path.Base(s.Name)
			if !strings.HasSuffix(name, ".network") {
				name = "10-umlkit.network"
			}
			if err := t.WriteFile(networkdDir+name, s.File, 0o644); err != nil {
				return err
			}
			return startNetworkd(t)
		}
		return t.WriteFile(interfacesPath, s.File, 0o644)
	}
	if err := CheckInterface(s.DHCP); err != nil {
		return err
	}
	if networkd {
		// RequiredForOnline: nothing waits for a device that may not be there.
		text := "[Match]\nName=" + s.DHCP + "\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=yes\n"
		if err := t.WriteFile(networkdDir+"10-"+s.DHCP+".network", []byte(text), 0o644); err != nil {
			return err
		}
		return startNetworkd(t)
	}
	return edit(t, interfacesPath, 0o644, func(old []byte) ([]byte, error) { return setDHCP(old, s.DHCP), nil })
}

// isNetworkd tells systemd's form from ifupdown's by its first line that says anything.
func isNetworkd(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' || line[0] == ';' {
			continue
		}
		return line[0] == '['
	}
	return false
}

func startNetworkd(t *tree.Tree) error {
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if unit := dir + "/systemd-networkd.service"; t.Exists(unit) {
			return enable(t, unit, "multi-user.target", "systemd-networkd.service")
		}
	}
	return nil
}

// stanzas are the words that begin one in interfaces(5); other lines belong to the
// stanza above them.
func beginsStanza(word string) bool {
	switch word {
	case "iface", "mapping", "auto", "source", "source-directory", "no-auto-down", "no-scripts", "rename", "template":
		return true
	}
	return strings.HasPrefix(word, "allow-")
}

// setDHCP lets one device ask for its address. What the file says of other devices
// stays. The device is brought up when it is there (allow-hotplug) and is not missed
// when it is not.
func setDHCP(old []byte, device string) []byte {
	var out []string
	lo, drop := false, false
	for _, line := range lines(old) {
		fields := strings.Fields(line)
		if len(fields) > 0 && beginsStanza(fields[0]) {
			drop = false
			switch {
			case fields[0] == "iface" && len(fields) > 1:
				drop = fields[1] == device
				lo = lo || fields[1] == "lo"
			case fields[0] == "auto" || strings.HasPrefix(fields[0], "allow-"):
				kept := fields[:1:1]
				for _, f := range fields[1:] {
					if f != device {
						kept = append(kept, f)
					}
				}
				if len(kept) == 1 && len(fields) > 1 {
					continue
				}
				if len(kept) < len(fields) {
					line = strings.Join(kept, " ")
				}
			}
		}
		// A comment after the dropped stanza belongs to what follows.
		if drop && len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			continue
		}
		out = append(out, line)
	}
	if !lo {
		out = append(out, "auto lo", "iface lo inet loopback")
	}
	if len(out) > 0 && strings.TrimSpace(out[len(out)-1]) != "" {
		out = append(out, "")
	}
	return join(append(out, "allow-hotplug "+device, "iface "+device+" inet dhcp"))
}
