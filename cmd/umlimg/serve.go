package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/nbd"
	"github.com/umlkit/umlkit/ubdfmt"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "export a disk to other programs over NBD",
		Category:  "disks",
		ArgsUsage: "IMAGE",
		Description: `umlimg serve --nbd unix:disk.sock disk.cow
umlimg serve --nbd :10809 --read-only --name rescue 'disk.img#2'`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "nbd", Usage: "listen at an `ADDRESS`: unix:PATH, or HOST:PORT, where no host means this one alone and port 0 any that is free"},
			&cli.BoolFlag{Name: "read-only", Aliases: []string{"r"}, Usage: "let nobody change the disk"},
			&cli.StringFlag{Name: "name", Usage: "the export's name (default: none, the default export)"},
			&cli.StringFlag{Name: "description", Usage: "the text about the export that clients may ask for"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "say on stderr who comes and goes, and what fails"},
			&cli.BoolFlag{Name: "json", Usage: "print where it listens as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			if !c.IsSet("nbd") {
				return usagef("serve: name where to listen: --nbd unix:PATH, or --nbd HOST:PORT")
			}
			for _, text := range []string{"name", "description"} {
				if s := c.String(text); len(s) > 4096 || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
					return usagef("serve: --%s: the protocol has UTF-8 text of at most 4096 bytes", text)
				}
			}
			if err := serveImage(c, args[0]); err != nil {
				return fmt.Errorf("serve %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// served is what --json prints once clients may come.
type served struct {
	Image    string `json:"image"`
	URI      string `json:"uri"`
	Address  string `json:"address"` // as --nbd takes it, with the port that was free
	Name     string `json:"name"`
	Size     int64  `json:"size"` // bytes
	ReadOnly bool   `json:"read-only"`
}

// serveImage serves until it is interrupted, which is no failure: it is how it ends.
func serveImage(c *cli.Context, path string) (err error) {
	dev, err := openImage(path, ubdfmt.Options{ReadOnly: c.Bool("read-only")})
	if err != nil {
		return err
	}
	l, err := listen(c.String("nbd"))
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	defer func() {
		err = errors.Join(err, dev.Close())
		l.remove() // whoever sees it go may have the image
	}()
	server := &nbd.Server{Export: nbd.Export{
		Name: c.String("name"), Description: c.String("description"), Device: dev, ReadOnly: c.Bool("read-only"),
	}}
	if c.Bool("verbose") {
		server.Logf = func(format string, args ...any) {
			fmt.Fprintln(c.App.ErrWriter, "umlimg: serve: "+printable(fmt.Sprintf(format, args...)))
		}
	}
	uri := l.uri(server.Name)
	if c.Bool("json") {
		err = printJSON(c, served{path, uri, l.address, server.Name, dev.Size(), server.ReadOnly})
	} else {
		_, err = fmt.Fprintln(c.App.Writer, uri)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return server.Serve(c.Context, l)
}

// listening is a listener with its name.
type listening struct {
	net.Listener
	address string      // as --nbd takes it
	path    string      // of a socket, else ""
	info    os.FileInfo // of the socket
}

// listen listens at an address of --nbd.
func listen(address string) (*listening, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	host, port, err := net.SplitHostPort(address)
	if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || strconv.FormatUint(n, 10) != port {
		return nil, usagef("--nbd %q: an address is unix:PATH or HOST:PORT", address)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", net.JoinHostPort(host, port), withoutOp(err))
	}
	return &listening{Listener: l, address: l.Addr().String()}, nil
}

// maxSocket is the host's limit of a socket's name, in bytes: behind it there is a NUL.
const maxSocket = len(unix.RawSockaddrUnix{}.Path) - 1

// listenUnix listens at a socket. One that a server left that is no more is replaced.
func listenUnix(path string) (*listening, error) {
	switch {
	case path == "":
		return nil, usagef("--nbd unix: names no socket: write unix:PATH")
	case len(path) > maxSocket:
		return nil, usagef("--nbd unix:%s: a socket's name has at most %d bytes, this one has %d", path, maxSocket, len(path))
	case path[0] == '@' || strings.ContainsRune(path, 0):
		return nil, usagef("--nbd unix:%q: no name for a file", path)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, withoutOp(err))
	}
	l.SetUnlinkOnClose(false) // remove looks first
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &listening{Listener: l, address: "unix:" + path, path: path, info: info}, nil
}

// removeStale removes a socket at which nobody listens any more, and refuses all else that
// has the name.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s is a socket at which another server listens", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("look who listens at %s: %w", path, withoutOp(err))
	}
	return os.Remove(path)
}

// withoutOp takes the address off an error, which has a name of it already.
func withoutOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Err
	}
	return err
}

// remove removes the socket, unless somebody has put another in its place.
func (l *listening) remove() {
	if l.path == "" {
		return
	}
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
		_ = os.Remove(l.path)
	}
}

// uri is where clients find an export, as nbdinfo and qemu-img take it.
func (l *listening) uri(name string) string {
	u := url.URL{Scheme: "nbd", Host: l.address, Path: "/" + name}
	if l.path != "" {
		// Not QueryEscape alone: of a + for a space clients know nothing.
		u.Scheme, u.Host = "nbd+unix", ""
		path := l.path
		if abs, err := filepath.Abs(path); err == nil && len(abs) <= maxSocket {
			path = abs // clients may stand elsewhere
		}
		u.RawQuery = "socket=" + strings.ReplaceAll(url.QueryEscape(path), "+", "%20")
		return u.Scheme + "://" + u.EscapedPath() + "?" + u.RawQuery
	}
	return u.String()
}
