package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// DefaultHostname is the name of a guest that has none.
const DefaultHostname = "uml"

// Hostname names the guest in /etc/hostname and /etc/hosts. An empty Name leaves the
// name that the tree has, or gives it DefaultHostname when it has none.
type Hostname struct{ Name string }

func (Hostname) String() string { return "hostname" }

// Apply implements Setting.
func (h Hostname) Apply(t *tree.Tree) error {
	name := h.Name
	if name == "" {
		data, err := read(t, "/etc/hostname")
		if err != nil {
			return err
		}
		name = firstName(data)
	}
	if name == "" {
		name = DefaultHostname
	}
	if h.Name != "" || !t.Exists("/etc/hostname") {
		if err := CheckHostname(name); err != nil {
			return err
		}
		err := edit(t, "/etc/hostname", 0o644, func([]byte) ([]byte, error) { return []byte(name + "\n"), nil })
		if err != nil {
			return err
		}
	}
	if CheckHostname(name) != nil {
		return nil // the tree's own, and not fit for hosts
	}
	return edit(t, "/etc/hosts", 0o644, func(old []byte) ([]byte, error) { return setHost(old, name), nil })
}

// firstName is the name in a hostname file: comments are left out, as hostname(1) does.
func firstName(data []byte) string {
	for _, line := range lines(data) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

// CheckHostname says what is wrong with a host name: labels of letters, digits and
// hyphens, joined by dots, at most 64 bytes as in sethostname(2).
func CheckHostname(name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("host name %.80q must have 1 to 64 characters", name)
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("host name %q: bad part %q", name, label)
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
				return fmt.Errorf("host name %q holds %q: letters, digits, hyphens and dots are allowed", name, c)
			}
		}
	}
	return nil
}

// setHost lets 127.0.1.1 be the host's own address, as Debian does, and sees to it that
// localhost is there.
func setHost(old []byte, name string) []byte {
	names := name
	if short, _, dotted := strings.Cut(name, "."); dotted {
		names += " " + short
	}
	own := "127.0.1.1\t" + names
	if len(lines(old)) == 0 {
		return join([]string{"127.0.0.1\tlocalhost", own, "",
			"::1\tlocalhost ip6-localhost ip6-loopback", "ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"})
	}
	var out []string
	local, at := -1, -1
	for _, line := range lines(old) {
		content, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(content)
		if len(fields) > 0 && fields[0] == "127.0.1.1" {
			if at < 0 {
				at = len(out)
			}
			continue
		}
		if local < 0 && len(fields) > 1 && fields[0] == "127.0.0.1" && slices.Contains(fields[1:], "localhost") {
			local = len(out)
		}
		out = append(out, line)
	}
	if local < 0 {
		out = slices.Insert(out, 0, "127.0.0.1\tlocalhost")
		local = 0
		if at >= 0 {
			at++
		}
	}
	if at < 0 {
		at = local + 1
	}
	return join(slices.Insert(out, at, own))
}
