package vec

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/emulator/driver"
	"github.com/umlkit/umlkit/emulator/nic"
)

// TestDriver holds the statuses of the driver's methods, and who is told of a unit.
func TestDriver(t *testing.T) {
	nowhere := "transport=bess,dst=" + filepath.Join(t.TempDir(), "switch")
	for _, family := range []string{Name, Legacy} {
		spec, other := nowhere, "transport=tap"
		if family == Legacy {
			spec, other = "daemon,,unix,/no/such/switch", "tuntap"
		}
		var log []string
		up, refuse := false, error(nil)
		present := map[string]bool{}
		d := New(Options{Family: family, Machine: "m",
			Logf: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) },
			Changed: func(p *nic.Port, added bool) error {
				if refuse == nil {
					present[p.Name] = added
				}
				return refuse
			},
			InUse: func(*nic.Port) bool { return up },
		})
		check := func(what string, err error, code driver.Code) {
			t.Helper()
			if got, text := driver.Status(err); got != code {
				t.Errorf("%s: %s: %d %q; want %d", family, what, got, text, code)
			}
		}
		describe := func(unit, want string) {
			t.Helper()
			if got, err := d.Describe(unit); got != want || err != nil {
				t.Errorf("%s: %s is %q, %v; want %q", family, unit, got, err, want)
			}
		}
		check("no unit", d.Configure("", spec), driver.Unparsed)
		check("a letter", d.Configure("x", spec), driver.Unparsed)
		check("a zero before", d.Configure("01", spec), driver.Unparsed)
		check("too great", d.Configure("1048576", spec), driver.Unparsed)
		check("a wrong specification", d.Configure("1", other), driver.Invalid)
		refuse = errors.New("no room")
		check("the kernel refuses", d.Configure("1", spec), driver.Invalid)
		describe("1", "")
		refuse = nil
		check("right", d.Configure("1", spec), 0)
		if !present[family+"1"] || len(d.Ports()) != 1 || !strings.Contains(strings.Join(log, "\n"), "it is tried again when the interface is brought up") {
			t.Errorf("%s: present %v, %d ports, log %q", family, present, len(d.Ports()), log)
		}
		check("twice", d.Configure("1", spec), driver.Busy)
		describe("1", spec)
		describe("2", "")
		up = true
		check("in use", d.Remove("1"), driver.Busy)
		up = false
		check("remove", d.Remove("1"), 0)
		check("remove again", d.Remove("1"), driver.NoDevice)
		check("remove a letter", d.Remove("x"), driver.Unparsed)
		if present[family+"1"] {
			t.Errorf("%s: removed, and told to be there", family)
		}
		check("again", d.Configure("1", spec), 0)
		if err := d.Close(); err != nil || len(d.Ports()) != 0 {
			t.Errorf("%s: Close = %v, %d ports", family, err, len(d.Ports()))
		}
	}
}

// TestIdentity holds that two devices that would hear the same are refused, until the first
// is gone.
func TestIdentity(t *testing.T) {
	d := New(Options{Family: Name, Logf: func(string, ...any) {}, Changed: func(*nic.Port, bool) error { return nil }, InUse: func(*nic.Port) bool { return false }})
	defer d.Close()
	gre := func(key int) string {
		return fmt.Sprintf("transport=gre,src=192.0.2.1,dst=192.0.2.2,rx_key=%d,tx_key=1", key)
	}
	if err := errors.Join(d.Configure("0", gre(1)), d.Configure("1", gre(2))); err != nil {
		t.Fatal(err)
	}
	if err := d.Configure("2", gre(1)); err == nil || !strings.Contains(err.Error(), "vec0 has gre src=192.0.2.1,dst=192.0.2.2,rx_key=1 already") {
		t.Errorf("the same key twice: %v", err)
	}
	if err := errors.Join(d.Remove("0"), d.Configure("2", gre(1))); err != nil {
		t.Error(err)
	}
}

// TestAddress holds that addresses are an interface's own, the same for the same machine.
func TestAddress(t *testing.T) {
	a, b := New(Options{Family: Name, Machine: "a"}), New(Options{Family: Name, Machine: "b"})
	seen := map[string]bool{}
	for n := range 100 {
		for _, d := range []*Driver{a, b, New(Options{Family: Legacy, Machine: "a"})} {
			mac := string(d.address(n, nil))
			if len(mac) != 6 || mac[0]&3 != 2 || seen[mac] {
				t.Fatalf("%x is no address of its own", mac)
			}
			seen[mac] = true
		}
	}
	if again := New(Options{Family: Name, Machine: "a"}).address(7, nil); again != a.address(7, nil) {
		t.Errorf("a machine's address changes from %x to %x", a.address(7, nil), again)
	}
}
