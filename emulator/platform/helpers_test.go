//go:build amd64

package platform

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// codePage is the stub's code as processes have it.
func (z *zygote) codePage(t *testing.T) []byte {
	t.Helper()
	page := make([]byte, pageSize)
	if _, err := unix.Pread(z.codeFD, page, 0); err != nil {
		t.Fatal(err)
	}
	return page
}

// mappings are what a process has mapped.
func mappings(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
