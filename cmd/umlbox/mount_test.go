package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// Mounts are made in a mount namespace of their own, and compared with those
// of util-linux.
func TestMounts(t *testing.T) {
	needsRoot(t)
	mke2fs, losetup := oracle.Tool(t, "mke2fs"), oracle.Tool(t, "losetup")
	disk := "truncate -s 8M disk; " + mke2fs + " -q -t ext4 -L boxlabel -U 01234567-89ab-cdef-0123-456789abcdef -E lazy_itable_init=0 disk; "
	// The file systems compared are loop-mounted by losetup of Debian's, so that
	// both sides see a block device.
	loop := disk + "l=$(" + losetup + " -f --show disk); trap \"" + losetup + " -d $l; rm disk\" EXIT; "
	var scripts []string
	for _, s := range []string{
		"mount -t tmpfs -o size=1m,nosuid,mode=700 none d && mount | grep \" $PWD/d \" | sed \"s|.* on ||; s/,inode64//\"; stat -c %a d; umount d; ls d",
		"mount -t tmpfs none d; mount -o remount,ro d; touch d/x; mount -o remount,rw d; touch d/x; ls d; umount d",
		"mount -t tmpfs none d; mkdir d/s m; mount --bind d m; touch m/f; ls d; umount m; mount -o bind,ro d m; touch m/g; umount m; umount d",
		"mount -t tmpfs none d; mkdir m; mount --move d m; touch m/x; ls m; umount m",
		"mount -t tmpfs none d; cd d; umount .; cd ..; umount d", "mount -t tmpfs none d; cd d; umount $OLDPWD/d 2>/dev/null; echo $?; cd ..; umount -l d; echo $?",
		"mount -t nosuchfs none d", "mount -t tmpfs none missing", "umount d", "umount missing", "mount a || echo failed", "mount --make-rprivate /; echo $?", "mount -t tmpfs -t tmpfs none d; umount -t tmpfs d; echo $?",
		"mountpoint d; mountpoint -q d; echo $?; mount -t tmpfs none d; mountpoint d; mountpoint -q d; echo $?; umount d", "mountpoint missing", "mountpoint a", "mountpoint /", "mountpoint -d / >/dev/null",
		"mount -t tmpfs -o size=2m none d; df d | sed 1d; df -T d; df -h d; df -i d | wc -l; df -k d/; df -P d; df --block-size=1M d; df -B 512 d; umount d", "df missing", "df a >/dev/null; echo $?", "df -t nosuch", "df -x tmpfs -t tmpfs",
		loop + "mount $l d; ls d; df d | sed \"s|^/dev/loop[0-9]*|LOOP|\"; umount $l; ls d", loop + "mount -r $l d; touch d/x; umount d", loop + "mount -o loop=no $l d; echo $?", loop + "mount LABEL=boxlabel d && mountpoint d; umount d", loop + "mount UUID=01234567-89ab-cdef-0123-456789abcdef d && mountpoint d; umount d",
		loop + "blkid $l | sed \"s|^/dev/loop[0-9]*|LOOP|\"", loop + "findfs LABEL=boxlabel | sed s/[0-9]*$//; findfs UUID=01234567-89ab-cdef-0123-456789abcdef | sed s/[0-9]*$//", "findfs LABEL=nosuchlabel", "blkid a", loop + "blockdev --getsize64 --getsz --getss --getro $l", loop + "blockdev --nonsense $l", loop + "mount $l d; dd if=/dev/zero of=d/f bs=1k count=100 status=none; rm d/f; sync; fstrim d; echo $?; umount d", "fstrim missing",
		disk + "l=$(losetup -f --show disk); losetup $l | sed \"s|.*(||\"; losetup -d $l; echo $?; rm disk", "losetup -d missing", disk + "l=$(losetup -f --show -r -o 1024 disk); blockdev --getro --getsize64 $l; losetup -d $l; rm disk",
		"swapon missing || echo failed", "swapoff missing || echo failed", "pivot_root d d", "chroot missing true", "chroot / true", "chroot / sh -c \"exit 3\"", "chroot / nosuchcommand",
		"cd d && chroot --userspec=1234:4321 --groups=7,8 / sh -c \"id -u; id -g; id -G; pwd\"", "cd d && chroot --skip-chdir / pwd | grep -c /d", "chroot --userspec=1234:55 / id -G",
		"chroot --userspec=:4321 --groups= / id -G", "chroot --skip-chdir d true",
	} {
		// What one script leaves in the cache of blkid must not answer the next.
		s = strings.NewReplacer("boxlabel", fmt.Sprintf("box%d", len(scripts)), "456789abcdef", fmt.Sprintf("%012d", len(scripts))).Replace(s)
		scripts = append(scripts, "/usr/bin/unshare -m --propagation private /bin/dash -c '"+s+"'")
	}
	for _, s := range scripts {
		if strings.Count(s, "'") != 2 {
			t.Fatalf("%s: a quote within the script", s)
		}
	}
	sameInTurn(t, scripts...)
}
