package system

import (
	"fmt"
	"unsafe"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// SwapOn lets the kernel swap to a device or file; UUID= and LABEL= are resolved.
func SwapOn(source string) error {
	path, err := Device(source)
	if err != nil {
		return err
	}
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return fmt.Errorf("swapon %s failed: %s", path, applet.Reason(errno))
	}
	return nil
}
