package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/oracle"
)

// makeByHand follows the HOWTO's recipe step by step with Debian's tools alone.
func makeByHand(t *testing.T, image string, source tree) {
	t.Helper()
	oracle.Run(t, "dd", "if=/dev/zero", "of="+image, "bs=1", "count=1", "seek=16G", "status=none")
	oracle.Run(t, "mkfs.ext4", "-q", image)
	mnt := oracle.Mount(t, image, "")
	// debootstrap's own work is kept between runs: the tree it made is copied.
	oracle.Run(t, "cp", "-a", source.dir(t)+"/.", mnt)
	passwd := exec.Command("chroot", mnt, "passwd")
	passwd.Stdin = strings.NewReader(password + "\n" + password + "\n")
	if out, err := passwd.CombinedOutput(); err != nil {
		t.Fatalf("chroot passwd: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(mnt, "etc/fstab"), []byte("/dev/ubd0 / ext4 discard,errors=remount-ro 0 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mnt, "etc/hostname"), []byte("byhand\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(filepath.Dir(oracle.RealUML(t)), "x/usr/lib/uml/modules")
	oracle.Run(t, "cp", "-rax", modules, filepath.Join(mnt, "lib/modules"))
	oracle.Unmount(t, mnt)
}

func TestHowtoRecipe(t *testing.T) {
	oracle.NeedsRoot(t)
	for _, source := range []tree{recipe, standard} {
		t.Run(source.name, func(t *testing.T) {
			dir := t.TempDir()
			image := filepath.Join(dir, "disk_image_name")
			makeByHand(t, image, source)
			spare := filepath.Join(dir, "spare")
			oracle.Run(t, "truncate", "-s", "1M", spare)
			m := user{}.boot(t, dir, "ubd0="+image, "ubd1="+spare, "root=/dev/ubda")
			login(m)
			if got := strings.TrimSpace(m.Sh(time.Minute, "tty; hostname; id -u")); got != "/dev/tty1\nbyhand\n0" {
				t.Errorf("the login on tty1 says %q", got)
			}
			toolsTell(t, m)
			powerOff(t, m)
			oracle.Fsck(t, image)
		})
	}
}
