package boot

import (
	"fmt"
	"slices"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/fstab"
	"golang.org/x/sys/unix"
)

// How long processes have to end after SIGTERM, and after SIGKILL.
const (
	termPatience = 3 * time.Second
	killPatience = 2 * time.Second
)

// down takes the system down in order and hands the machine to the kernel's
// reboot command. It returns only when that failed.
func (in *initd) down(command int) error {
	in.once("shutdown", true)
	in.say("going down")
	in.table = nil // nothing is started again
	unix.Kill(-1, unix.SIGTERM)
	unix.Kill(-1, unix.SIGCONT)
	if !in.drain(termPatience) {
		unix.Kill(-1, unix.SIGKILL)
		in.drain(killPatience)
	}
	unix.Sync()
	in.umountAll()
	unix.Sync()
	if err := unix.Reboot(command); err != nil {
		return fmt.Errorf("reboot: %s", applet.Reason(err))
	}
	select {} // in a PID namespace the end comes as a signal
}

// drain reaps until no process is left, as long as patience lasts. Every
// process ends up as our child when its parent is gone.
func (in *initd) drain(patience time.Duration) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return true
			}
			if err == unix.EINTR || pid > 0 {
				continue
			}
			break
		}
		select {
		case <-in.signals:
		case <-deadline.C:
			return false
		}
	}
}

// umountAll unmounts what it can, the latest first, and makes the root read-only.
func (in *initd) umountAll() {
	mounts, err := fstab.Mounts()
	if err != nil {
		in.say("%s", applet.Message(err))
	}
	for _, m := range slices.Backward(mounts) {
		switch m.Target {
		case "/", "/proc", "/dev":
			continue // in use, by us too
		}
		if err := unix.Unmount(m.Target, 0); err != nil {
			// What cannot be unmounted is at least made to write all it has.
			unix.Mount("", m.Target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil && err != unix.EINVAL {
		in.say("/ stays writable: %s", applet.Reason(err))
	}
}
