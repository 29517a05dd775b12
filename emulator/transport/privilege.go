package transport

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// refused says of a refusal for want of privilege which capability is wanted, how a program
// gets it, and, when it is so, that it cannot.
func refused(err error, capability string) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	program, failed := os.Executable()
	if failed != nil {
		program = "linux"
	}
	void := ""
	if on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && on == 1 {
		void = "; no_new_privs is set here, which makes that void"
	}
	return fmt.Errorf("%w: needs %s (setcap %s+ep %s%s)", err, capability, strings.ToLower(capability), program, void)
}
