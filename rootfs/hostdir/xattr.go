package hostdir

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// xattrAt lists and reads extended attributes of one file. It keeps readXattrs free
// of how the file is named.
type xattrAt struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
}

func fdXattrs(fd int) xattrAt {
	return xattrAt{
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) },
	}
}

func pathXattrs(path string) xattrAt {
	return xattrAt{
		func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) },
	}
}

// xattrMax is the kernel's limit on a list of names and on a value, in bytes.
const xattrMax = 64 << 10

// readXattrs reads the extended attributes that ext4 can hold. No attributes is nil.
func readXattrs(at xattrAt) (map[string][]byte, error) {
	var small [256]byte
	list := small[:]
	n, err := at.list(list)
	if err == unix.ERANGE {
		list = make([]byte, xattrMax)
		n, err = at.list(list)
	}
	if err == unix.ENOTSUP || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var attrs map[string][]byte
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !tree.StorableXattr(name) {
			continue
		}
		value := make([]byte, 256)
		n, err := at.get(name, value)
		if err == unix.ERANGE {
			value = make([]byte, xattrMax)
			n, err = at.get(name, value)
		}
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if attrs == nil {
			attrs = make(map[string][]byte)
		}
		attrs[name] = append([]byte{}, value[:n]...)
	}
	return attrs, nil
}
