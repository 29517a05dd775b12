package network

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
)

// Plain HTTP by hand: net/http brings TLS along, which would double the
// program and slow every start of every applet.

const (
	maxRedirects = 20
	maxHeader    = 1 << 20
)

type wget struct {
	e        *applet.Env
	output   string
	quiet    bool
	resume   bool
	agent    string
	headers  []string
	patience time.Duration
}

// Wget fetches files over HTTP.
func Wget(e *applet.Env, args []string) error {
	w := &wget{e: e, agent: "umlbox-wget", patience: 15 * time.Minute}
	var spider bool
	var dir string
	var o applet.Options
	o.String(&w.output, 'O', "output-document")
	o.String(&dir, 'P', "directory-prefix")
	o.Bool(&w.quiet, 'q', "quiet")
	o.Bool(&w.resume, 'c', "continue")
	o.Bool(&spider, 0, "spider")
	o.String(&w.agent, 'U', "user-agent")
	o.Value(0, "header", func(s string) error { w.headers = append(w.headers, s); return nil })
	o.Value('T', "timeout", func(s string) (err error) { w.patience, err = clock.Duration(s); return err })
	urls, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(urls) == 0 {
		return applet.Usagef("missing URL")
	}
	for _, u := range urls {
		if err := w.fetch(u, dir, spider); err != nil {
			e.Warn(err)
		}
	}
	return nil
}

func (w *wget) say(format string, a ...any) {
	if !w.quiet {
		fmt.Fprintf(w.e.Stderr, format+"\n", a...)
	}
}

func (w *wget) fetch(text, dir string, spider bool) error {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: not a URL", text)
	}
	name := w.output
	if name == "" {
		name = path.Base(u.Path)
		if name == "." || name == "/" {
			name = "index.html"
		}
		if dir != "" {
			name = path.Join(dir, name)
		}
	}
	offset := int64(0)
	if w.resume && name != "-" {
		if st, err := os.Stat(name); err == nil {
			offset = st.Size()
		}
	}
	for range maxRedirects {
		r, err := w.request(u, offset)
		if err != nil {
			return err
		}
		switch {
		case r.status >= 300 && r.status < 400 && r.header.Get("Location") != "":
			r.conn.Close()
			next, err := u.Parse(r.header.Get("Location"))
			if err != nil {
				return fmt.Errorf("%s: bad redirection %q", u, r.header.Get("Location"))
			}
			u = next
			continue
		case r.status == 416 && offset > 0:
			r.conn.Close()
			w.say("%s is complete", applet.Quote(name))
			return nil
		case r.status != 200 && r.status != 206:
			r.conn.Close()
			return fmt.Errorf("%s: server returned error: %s", u, r.line)
		}
		defer r.conn.Close()
		if spider {
			w.say("remote file exists")
			return nil
		}
		return w.save(r, name, offset > 0 && r.status == 206)
	}
	return fmt.Errorf("%s: more than %d redirections", text, maxRedirects)
}

type response struct {
	conn   net.Conn
	line   string
	status int
	header textproto.MIMEHeader
	body   io.Reader
	length int64 // -1: not told
}

func (w *wget) request(u *url.URL, offset int64) (*response, error) {
	switch u.Scheme {
	case "http":
	case "https":
		return nil, fmt.Errorf("%s: only http is spoken here, not https", u)
	default:
		return nil, fmt.Errorf("%s: not an http URL", u)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), w.patience)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %s", u.Host, applet.Reason(err))
	}
	timed := &patient{conn, w.patience}
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nConnection: close\r\nAccept: */*\r\n", u.RequestURI(), u.Host, w.agent)
	if offset > 0 {
		fmt.Fprintf(&b, "Range: bytes=%d-\r\n", offset)
	}
	for _, h := range w.headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n")
	r := &response{conn: conn}
	if _, err = io.WriteString(timed, b.String()); err == nil {
		err = r.read(timed)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %s", u, applet.Reason(err))
	}
	return r, nil
}

// patient gives up when nothing comes for a while.
type patient struct {
	net.Conn
	limit time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(p.limit))
	return p.Conn.Read(b)
}

func (r *response) read(conn io.Reader) error {
	head := &io.LimitedReader{R: conn, N: maxHeader}
	b := bufio.NewReader(head)
	tp := textproto.NewReader(b)
	line, err := tp.ReadLine()
	if err != nil {
		return err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	if r.status, err = strconv.Atoi(code); err != nil || !strings.HasPrefix(version, "HTTP/") {
		return fmt.Errorf("not an HTTP answer: %q", line)
	}
	r.line = line
	if r.header, err = tp.ReadMIMEHeader(); err != nil {
		return err
	}
	head.N = 1<<63 - 1 // the body has no bound but the disk
	r.length = -1
	switch {
	case strings.EqualFold(r.header.Get("Transfer-Encoding"), "chunked"):
		r.body = &chunks{r: b}
	case r.header.Get("Content-Length") != "":
		if r.length, err = strconv.ParseInt(r.header.Get("Content-Length"), 10, 64); err != nil || r.length < 0 {
			return fmt.Errorf("bad Content-Length %q", r.header.Get("Content-Length"))
		}
		r.body = io.LimitReader(b, r.length)
	default:
		r.body = b
	}
	return nil
}

// chunks decodes the chunked transfer encoding.
type chunks struct {
	r    *bufio.Reader
	left int64
	end  bool
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, unexpected(err)
		}
		text, _, _ := strings.Cut(strings.TrimSpace(string(line)), ";")
		size, err := strconv.ParseUint(text, 16, 62)
		if err != nil {
			return 0, fmt.Errorf("bad chunk size %q", text)
		}
		c.left = int64(size)
		if c.left == 0 {
			c.end = true
			return 0, io.EOF
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == nil && c.left == 0 {
		_, err = c.r.Discard(2) // the line end behind a chunk
	}
	return n, unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *wget) save(r *response, name string, add bool) error {
	if name == "-" {
		_, err := io.Copy(w.e.Stdout, r.body)
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if add {
		flags = os.O_WRONLY | os.O_APPEND
	}
	f, err := os.OpenFile(name, flags, 0o666)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r.body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && r.length >= 0 && n < r.length {
		err = errors.New("the connection ended early")
	}
	if err != nil {
		return fmt.Errorf("%s: %s after %d bytes", name, applet.Reason(err), n)
	}
	w.say("%s saved [%d]", applet.Quote(name), n)
	return nil
}
