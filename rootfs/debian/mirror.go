package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mirror is where packages come from: a web server, or a directory of this machine.
type mirror struct {
	base   *url.URL
	dir    string // of a file: mirror, else ""
	cache  string // where what comes over the network is kept, by its SHA256
	client *http.Client
}

// openMirror takes http://…, https://… or file:/….
func openMirror(text, cache string) (*mirror, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	m := &mirror{base: u, cache: cache}
	switch {
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		m.dir = u.Path
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.ResponseHeaderTimeout = stall
		m.client = &http.Client{Transport: transport}
	default:
		return nil, fmt.Errorf("mirror %.200q: http://SERVER/PATH, https://SERVER/PATH or file:/PATH", text)
	}
	return m, nil
}

// stall is how long a server may say nothing.
const stall = 60 * time.Second

// tries is how often a file is asked for before it counts as not to be had.
const tries = 3

// document is a file of which no sum is known: Release files. A missing one is
// fs.ErrNotExist.
func (m *mirror) document(ctx context.Context, name string, most int64) ([]byte, error) {
	if m.dir != "" {
		return readFile(filepath.Join(m.dir, name), most)
	}
	var data []byte
	err := m.retry(ctx, func() error {
		body, _, err := m.get(ctx, name, 0)
		if err != nil {
			return err
		}
		defer body.Close()
		data, err = readAll(body, name, most)
		return err
	})
	return data, err
}

// file is a file whose sum is known. It is open at its beginning, and its content was
// held against the sum.
func (m *mirror) file(ctx context.Context, name string, want sum) (*os.File, error) {
	path := filepath.Join(m.dir, name)
	if m.dir == "" {
		path = filepath.Join(m.cache, want.sha256)
		if f, err := openChecked(path, want); err == nil {
			return f, nil
		} else if !errors.Is(err, fs.ErrNotExist) { // damaged: it is fetched anew
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		if err := m.retry(ctx, func() error { return m.fetch(ctx, name, path, want) }); err != nil {
			return nil, err
		}
	}
	f, err := openChecked(path, want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// openChecked opens a file that must have a size and a sum.
func openChecked(path string, want sum) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = check(f, want)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func check(f *os.File, want sum) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != want.size {
		return fmt.Errorf("it has %d bytes, not %d", info.Size(), want.size)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, want.size)); err != nil {
		return err
	}
	if have := hex.EncodeToString(h.Sum(nil)); have != want.sha256 {
		return fmt.Errorf("its SHA256 is %s, not %s", have, want.sha256)
	}
	return nil
}

// retry tries again what a network may do better the next time.
func (m *mirror) retry(ctx context.Context, do func() error) error {
	var err error
	for i := range tries {
		if err = do(); err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-time.After(time.Duration(i+1) * time.Second / 2):
		case <-ctx.Done():
		}
	}
	return err
}

// fetch brings a file into the cache. What an earlier try, or an earlier run, brought of
// it is not asked for again.
func (m *mirror) fetch(ctx context.Context, name, path string, want sum) error {
	if err := os.MkdirAll(m.cache, 0o700); err != nil {
		return err
	}
	part, err := os.OpenFile(path+".part", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer part.Close()
	if err := lock(ctx, part); err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil // another run brought it meanwhile
	}
	have, err := part.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have >= want.size {
		have = 0
	}
	body, from, err := m.get(ctx, name, have)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := part.Truncate(from); err != nil {
		return err
	}
	if _, err := part.Seek(from, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(part, io.LimitReader(body, want.size-from+1))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = part.Seek(0, io.SeekStart)
	if err == nil {
		err = check(part, want)
	}
	if err != nil {
		if from+n >= want.size { // nothing that could be gone on with
			err = errors.Join(err, os.Remove(part.Name()))
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.Rename(part.Name(), path)
}

// lock waits for a file that another run is filling.
func lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// get asks for a file from a byte on, and says from which it comes.
func (m *mirror) get(ctx context.Context, name string, from int64) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	u := *m.base // a name is taken as it is: a % in it is one
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/")+"/"+name, ""
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel()
		return nil, 0, err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := m.client.Do(req)
	if err != nil {
		cancel()
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	body := &patient{ReadCloser: resp.Body, cancel: cancel, timer: time.AfterFunc(stall, cancel)}
	switch resp.StatusCode {
	case http.StatusOK:
		return body, 0, nil
	case http.StatusPartialContent:
		var first int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err == nil && first == from {
			return body, from, nil
		}
		err = fmt.Errorf("%s: the server gives another part than was asked for", name)
	case http.StatusNotFound, http.StatusGone:
		err = fmt.Errorf("%s: %w on the mirror", name, fs.ErrNotExist)
	default:
		err = fmt.Errorf("%s: the mirror says %.80q", name, resp.Status)
	}
	body.Close()
	return nil, 0, err
}

// patient ends what has stalled.
type patient struct {
	io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
}

func (p *patient) Read(b []byte) (int, error) {
	p.timer.Reset(stall)
	return p.ReadCloser.Read(b)
}

func (p *patient) Close() error {
	p.timer.Stop()
	p.cancel()
	return p.ReadCloser.Close()
}
