package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// edited are the paths that umlimg changes in a tree by request.
var edited = []string{"etc/fstab", "etc/hostname", "etc/hosts", "etc/shadow", "etc/shadow-", "etc/passwd", "etc/inittab",
	"etc/network", "lost+found", "lib/modules", "usr/lib/modules"}

// TestWholeWay is the purpose of the project on real input: a Debian tree becomes an
// image, boots over a COW file, is worked in, boots under a real kernel, and is merged
// by two tools to the same bytes.
func TestWholeWay(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	var root user
	root.run(t, guest.Binary(t, "umlimg"), "create", "--from", minbase.dir(t), "--size", "16G",
		"--hostname", "proof", "--root-password", password, image)
	oracle.Fsck(t, image)

	if !t.Run("equals its source", func(t *testing.T) {
		mnt := oracle.Mount(t, image, "ro")
		// The times of directories that hold an edited file have changed with it.
		skip := append([]string{}, edited...)
		sameTrees(t, timeless(describe(t, minbase.dir(t), skip...), ".", "etc", "lib", "usr/lib"),
			timeless(describe(t, mnt, skip...), ".", "etc", "lib", "usr/lib"))
	}) {
		return
	}
	wholeWay(t, root, dir, image)
}

// timeless takes the mtime out of the lines of some paths.
func timeless(lines map[string]string, paths ...string) map[string]string {
	for _, p := range paths {
		line := lines[p]
		if i := strings.Index(line, " mtime "); i >= 0 {
			rest := line[i+len(" mtime "):]
			if j := strings.IndexByte(rest, ' '); j >= 0 {
				lines[p] = line[:i] + rest[j:]
			} else {
				lines[p] = line[:i]
			}
		}
	}
	return lines
}

// wholeWay is the way from the image on, for root and for an ordinary user.
func wholeWay(t *testing.T, u user, dir, image string) {
	before, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := sumImage(image)
	if err != nil {
		t.Fatal(err)
	}
	cow := filepath.Join(dir, "disk.cow")

	if !t.Run("works in a COW file", func(t *testing.T) {
		m := u.boot(t, dir, "ubd0="+cow+","+image, "root=/dev/ubda")
		login(m)
		workInGuest(t, m)
		powerOff(t, m)
		after, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		if !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("the backing file's mtime went from %v to %v", before.ModTime(), after.ModTime())
		}
		if now, err := sumImage(image); err != nil || now != sum {
			t.Errorf("the backing file's bytes changed (%v)", err)
		}
		merged := filepath.Join(dir, "ours-merged.img")
		u.run(t, guest.Binary(t, "uml_moo"), cow, merged)
		oracle.Fsck(t, merged)
	}) {
		return
	}

	if !u.ordinary {
		if !t.Run("is one disk to a real kernel", func(t *testing.T) {
			m := bootReal(t, dir, "ubd0="+cow, "root=/dev/ubda")
			login(m)
			if out := m.Sh(2*time.Minute, "cd /root && sha256sum -c sums | grep -vc ': OK$'; test ${PIPESTATUS[0]} = 0"); strings.TrimSpace(out) != "0" {
				t.Errorf("the real kernel reads our guest's files with other sums: %s", out)
			}
			m.Sh(time.Minute, "mkdir /root/real && seq 1 200000 >/root/real/seq && cp -a /usr/share/common-licenses /root/real/ && ln /root/real/seq /root/real/hard && cd /root && find real -type f -exec sha256sum {} + >real.sums && sync")
			powerOff(t, m)

			m = u.boot(t, dir, "ubd0="+cow, "root=/dev/ubda")
			login(m)
			m.Sh(time.Minute, "cd /root && sha256sum --quiet -c real.sums && test $(stat -c %h real/seq) = 2")
			powerOff(t, m)
		}) {
			return
		}
	}

	t.Run("is merged as Debian merges", func(t *testing.T) {
		ours, theirs := filepath.Join(dir, "ours.img"), filepath.Join(dir, "theirs.img")
		u.run(t, guest.Binary(t, "uml_moo"), cow, ours)
		u.run(t, oracle.Tool(t, "uml_moo"), cow, theirs)
		sameContent(t, ours, theirs)
		oracle.Fsck(t, ours)
		if err := os.Remove(theirs); err != nil {
			t.Fatal(err)
		}
		// In place: each tool gets a backing file of its own, by -b.
		u.run(t, guest.Binary(t, "uml_moo"), "-d", cow)
		sameContent(t, ours, image)
	})
}

// workInGuest does in the guest what people do: packages, archives, many files, an
// interpreter. /root/sums is left for whoever reads the disk next.
func workInGuest(t *testing.T, m *guest.Machine) {
	t.Helper()
	if got := strings.TrimSpace(m.Sh(time.Minute, "tty")); got != "/dev/tty1" {
		t.Errorf("the terminal is %q, want /dev/tty1", got)
	}
	if got := strings.TrimSpace(m.Sh(time.Minute, "stat -c %t:%T /dev/ubda; stat -c %d /; df --output=fstype / | tail -1")); got != "62:0\n25088\next4" {
		t.Errorf("the root disk shows itself as %q", got)
	}
	m.Sh(5*time.Minute, "dpkg -i /root/debs/*.deb >/root/dpkg.log 2>&1 || { cat /root/dpkg.log; false; }")
	m.Sh(5*time.Minute, "dpkg -V "+strings.Join(packages, " "))
	if got := strings.TrimSpace(m.Sh(time.Minute, "hello; command time -f %x true")); got != "Hello, world!\n0" {
		t.Errorf("the installed programs say %q", got)
	}
	m.Sh(5*time.Minute, "tar -C / --xattrs -cf /root/usr.tar usr && mkdir /root/copy && tar -C /root/copy --xattrs -xf /root/usr.tar")
	m.Sh(5*time.Minute, "diff -r --no-dereference /usr /root/copy/usr")
	m.Sh(5*time.Minute, `mkdir /root/many && cd /root/many && perl -e 'for (1..5000) { open F, ">f$_" or die $!; print F "x$_\n"; close F or die $! }' && test $(ls | wc -l) = 5000 && cat f77 f5000 | tr '\n' ' ' | grep -q 'x77 x5000' && rm -r /root/many && test ! -e /root/many`)
	if got := strings.TrimSpace(m.Sh(time.Minute, `perl -e 'my %h = map { $_ => $_ ** 2 } 1..1000; my $s = 0; $s += $h{$_} for keys %h; print $s'`)); got != "333833500" {
		t.Errorf("perl says %q", got)
	}
	m.Sh(5*time.Minute, "cd /root && rm usr.tar && find copy /usr/bin /usr/lib -type f -exec sha256sum {} + >sums && sync")
}

// TestSecondMachineIsRefused: two machines on one raw image would destroy it.
func TestSecondMachineIsRefused(t *testing.T) {
	var u user
	dir := u.workdir(t)
	image := filepath.Join(dir, "disk.img")
	u.run(t, guest.Binary(t, "umlimg"), "create", "--size", "64M", "--umlbox", guest.Binary(t, "umlbox"), image)
	linux := guest.Binary(t, "linux")
	first := guest.Start(t, linux, "mem=256M", "uml_dir="+dir, "ubd0="+image, "root=/dev/ubda", "rw")
	first.Expect(time.Minute, `[#$] $`)
	out, code := guest.Output(t, time.Minute, linux, "mem=256M", "uml_dir="+dir, "ubd0="+image, "root=/dev/ubda", "rw")
	if code != 134 {
		t.Errorf("the second machine's exit status is %d, want 134", code)
	}
	if !strings.Contains(out, "Failed to lock") || !strings.Contains(out, fmt.Sprint(first.PID())) {
		t.Errorf("the refusal does not name the first's pid %d:\n%s", first.PID(), out)
	}
	first.Type("echo unharmed >/root/proof && sync && cat /root/proof\n")
	first.Expect(time.Minute, `(?m)^unharmed`)
	first.Type("poweroff\n")
	if code := first.Wait(time.Minute); code != 0 {
		t.Errorf("the first machine's exit status is %d, want 0", code)
	}
	oracle.Fsck(t, image)
}
