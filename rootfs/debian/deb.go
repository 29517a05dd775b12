package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/rootfs/compression"
)

const (
	// controlMax bounds what a package's control archive unpacks to, in bytes.
	controlMax = 64 << 20
	// dataMax bounds what a package's files unpack to, in bytes.
	dataMax = 64 << 30
)

// deb is a package's file that is being read: deb(5).
type deb struct {
	control map[string]script // the members of the control archive by name
	data    io.Reader         // the tar archive of the package's files, unpacked
	close   func()
}

// script is a member of a control archive.
type script struct {
	content []byte
	mode    uint32
}

// openDeb reads the control archive of a package and finds its files. They are to be read
// before r goes on to something else.
func openDeb(r io.Reader) (*deb, error) {
	var magic [8]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil || string(magic[:]) != "!<arch>\n" {
		return nil, errors.New("no Debian package: it is no ar archive")
	}
	d := &deb{close: func() {}}
	first := true
	for {
		name, size, err := arHeader(r)
		if err == io.EOF {
			return nil, errors.New("the package ends before its files")
		}
		if err != nil {
			return nil, err
		}
		member := io.LimitReader(r, size)
		base, _, _ := strings.Cut(name, ".")
		switch {
		case first:
			version, err := io.ReadAll(io.LimitReader(member, 16))
			if err != nil || name != "debian-binary" || !strings.HasPrefix(string(version), "2.") {
				return nil, fmt.Errorf("no Debian package of version 2: %.20q says %.20q", name, version)
			}
		case d.control == nil && base == "control":
			if d.control, err = readControl(member); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		case d.control != nil && base == "data":
			unpacked, err := compression.NewReader(member)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			d.data, d.close = atMost(unpacked, dataMax), func() { unpacked.Close() }
			return d, nil
		case strings.HasPrefix(name, "_"): // deb(5): of no meaning to us
		default:
			return nil, fmt.Errorf("member %.20q in the place of control.tar or data.tar", name)
		}
		first = false
		if _, err := io.Copy(io.Discard, member); err != nil {
			return nil, err
		}
		if size%2 == 1 {
			if _, err := io.CopyN(io.Discard, r, 1); err != nil {
				return nil, err
			}
		}
	}
}

// arHeader is the name and size of the next member of an ar archive.
func arHeader(r io.Reader) (string, int64, error) {
	var h [60]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return "", 0, err
	}
	name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
	size, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 || string(h[58:]) != "`\n" {
		return "", 0, fmt.Errorf("header of the member %.20q is damaged", name)
	}
	return name, size, nil
}

// errLong is why a reader ends before its data do.
var errLong = errors.New("it unpacks to more than a package may hold")

// atMost fails behind n bytes, in place of an end.
func atMost(r io.Reader, n int64) io.Reader { return &limited{r, n} }

type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errLong
	}
	return n, err
}

// readAll is all of a reader, of at most some bytes.
func readAll(r io.Reader, name string, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return data, err
}

// readControl reads a control archive. Its members are files in one directory.
func readControl(packed io.Reader) (map[string]script, error) {
	unpacked, err := compression.NewReader(packed)
	if err != nil {
		return nil, err
	}
	defer unpacked.Close()
	out := make(map[string]script)
	r := tar.NewReader(atMost(unpacked, controlMax))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)[1:]
		switch {
		case h.Typeflag == tar.TypeDir && name == "":
			continue
		case h.Typeflag != tar.TypeReg || strings.Trim(name, nameChars+"_ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || name == "" || len(name) > 64:
			return nil, fmt.Errorf("%.80q is no file of a control archive", h.Name)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		out[name] = script{content, uint32(h.Mode) & 0o777}
	}
	if len(bytes.TrimSpace(out["control"].content)) == 0 {
		return nil, errors.New("it has no file control")
	}
	return out, nil
}
