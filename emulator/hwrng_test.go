package emulator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/guest"
)

// TestGenerator holds /dev/hwrng as the command line and as a device tree configure it.
func TestGenerator(t *testing.T) {
	name := filepath.Join(t.TempDir(), "numbers")
	if err := os.WriteFile(name, []byte(strings.Repeat("0123456789abcdef", 512)), 0o644); err != nil {
		t.Fatal(err)
	}
	rd := "initrd=" + shell(t, `ls -l /dev/hwrng
dd if=/dev/hwrng bs=40 count=1 2>/dev/null; echo
dd if=/dev/hwrng bs=1 count=3000 2>/dev/null | md5sum
echo x >/dev/hwrng; echo "write: $?"
cat /sys/class/misc/hw_random/dev /sys/class/misc/hw_random/rng_current
cat /dev/hwrng | wc -c`)
	tree := func(text string) string { return "dtb=" + compile(t, "/dts-v1/; / { rng { "+text+" }; };") }
	node := `compatible = "umlkit,hwrng"; source = "` + name + `"; `
	for _, word := range []string{"hwrng=" + name, tree(node), tree(node + `rate-limit = <4000>;`)} {
		out, status := boot(t, rd, word)
		if status != 0 {
			t.Errorf("%s: exit status %d", word, status)
		}
		want(t, out, "crw-------    1 0        0          10, 183 ", "\n0123456789abcdef0123456789abcdef01234567\n", "write: 1\n", "10:183\numlkit\n",
			"cat: read error: Input/output error\n", "\n5152\n")
	}
	for word, why := range map[string]string{"hwrng=/no/such": "hwrng=/no/such: open /no/such: no such file or directory", tree(`compatible = "umlkit,hwrng"; source = <1>;`): "hwrng: rng: source is not a string",
		tree(node + `status = "disabled";`): "", "debug": ""} {
		out, _ := boot(t, "initrd="+initrd(t), word, "stat:/dev/hwrng")
		want(t, out, why, "guest: /dev/hwrng: no such file or directory")
	}
}

// TestGeneratorWhileRunning adds and removes it by the management console.
func TestGeneratorWhileRunning(t *testing.T) {
	dir := t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "con0=fd:0,fd:1", "initrd="+shell(t, `mknod /node c 10 183
while read line; do eval "$line"; echo "done $?"; done`))
	m.Expect(limit, "Run /init as init process")
	socket := filepath.Join(dir, "T", "mconsole")
	check := func(command string, code int32, text string) {
		t.Helper()
		if c, got := ask(t, socket, command); c != code || got != text {
			t.Errorf("%s: %d %q; want %d %q", command, c, got, code, text)
		}
	}
	do := func(line, pattern string) {
		t.Helper()
		m.Type(line + "\n")
		m.Expect(limit, pattern)
	}
	do("cat /node", `No such device or address\s+done 1`)
	check("config hwrng", 0, "")
	check("config hwrng=/dev/urandom,64K", 0, "")
	check("config hwrng=/dev/urandom", -16, "Device is already configured")
	check("config hwrng", 0, "/dev/urandom,65536")
	do("head -c 1000 /dev/hwrng | wc -c", `1000\s+done 0`)
	do("exec 3</dev/hwrng", `done 0`)
	check("remove hwrng", -16, "Device is currently open")
	do("exec 3<&-", `done 0`)
	check("remove hwrng", 0, "")
	check("remove hwrng", -19, "Device doesn't exist")
	do("ls /dev/hwrng", `No such file or directory\s+done 1`)
	m.Signal(unix.SIGTERM)
	m.Wait(limit)
}
