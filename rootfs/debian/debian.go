// Package debian makes a root file system out of a Debian archive: the packages of a
// suite, resolved, fetched, held against the archive's signature and unpacked into the
// tree with dpkg's records of them, as `dpkg --unpack` leaves them. What their scripts
// do is left to dpkg inside the machine; see ConfigureProgram.
//
// Nothing of this machine goes into the tree. All that a mirror sends is untrusted until
// its sum is one that a signed Release file leads to; versions and relations are read by
// pault.ag/go/debian, signatures by ProtonMail's openpgp.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/umlkit/umlkit/rootfs/compression"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Source is a suite of a Debian archive. It is used once.
type Source struct {
	Suite      string   // or codename
	Variant    string   // one of Variants
	Include    []string // packages besides
	Components []string // main where there is none
	Arch       string   // Debian's name of it: amd64
	Mirror     string   // http://…, https://… or file:/…

	// Keyring is a file of keys, one of which must have signed the suite. With
	// AllowUnsigned nothing is checked but the sums that the Release file has.
	Keyring       string
	AllowUnsigned bool

	// Cache is a directory for what was fetched. Now is the time that signatures and
	// Release files must be valid at.
	Cache string
	Now   time.Time

	done, total atomic.Int64 // bytes of packages
}

// String names the source in messages.
func (s *Source) String() string { return s.Suite }

// Close implements rootfs.Source.
func (s *Source) Close() error { return nil }

// Progress is how many bytes of packages were unpacked, of all.
func (s *Source) Progress() (done, total int64) { return s.done.Load(), s.total.Load() }

const (
	releaseMax = 64 << 20  // of a Release file, in bytes
	indexMax   = 512 << 20 // of a Packages file, unpacked
)

// Fill implements rootfs.Source.
func (s *Source) Fill(ctx context.Context, t *tree.Tree, store tree.Store) error {
	m, err := openMirror(s.Mirror, s.Cache)
	if err != nil {
		return err
	}
	if err := s.fill(ctx, m, t, store); err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

func (s *Source) fill(ctx context.Context, m *mirror, t *tree.Tree, store tree.Store) error {
	r, err := s.release(ctx, m)
	if err != nil {
		return err
	}
	components := s.Components
	if len(components) == 0 {
		components = []string{"main"}
	}
	if err := r.check(s.Suite, s.Arch, components, s.Now); err != nil {
		return fmt.Errorf("the Release file is refused: %w", err)
	}
	var indexes []string
	for _, c := range components {
		text, err := s.index(ctx, m, r, c)
		if err != nil {
			return err
		}
		indexes = append(indexes, text)
	}
	u, err := newUniverse(s.Arch, indexes...)
	if err != nil {
		return err
	}
	packages, err := u.resolve(s.Variant, s.Include)
	if err != nil {
		return err
	}
	if len(packages) == 0 {
		return errors.New("it has no package that every system needs")
	}
	if err := s.unpack(ctx, m, packages, t, store); err != nil {
		return err
	}
	return s.system(t, packages, components)
}

// release is the suite's Release file, its signature checked.
func (s *Source) release(ctx context.Context, m *mirror) (*release, error) {
	var keys openpgp.EntityList
	if !s.AllowUnsigned {
		var err error
		if keys, err = readKeyring(s.Keyring); err != nil {
			return nil, fmt.Errorf("keyring: %w", err)
		}
	}
	dir := path.Join("dists", s.Suite)
	data, err := m.document(ctx, dir+"/InRelease", releaseMax)
	switch {
	case err == nil && s.AllowUnsigned:
		data = unsigned(data)
	case err == nil:
		if data, err = verifyInline(data, keys, s.Now); err != nil {
			return nil, fmt.Errorf("%s/InRelease is refused: %w", dir, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	default:
		if data, err = m.document(ctx, dir+"/Release", releaseMax); err != nil {
			return nil, fmt.Errorf("the mirror has no suite %s: %w", s.Suite, err)
		}
		if s.AllowUnsigned {
			break
		}
		signature, err := m.document(ctx, dir+"/Release.gpg", releaseMax)
		if err != nil {
			return nil, fmt.Errorf("%s/Release is refused, it is not signed: %w", dir, err)
		}
		if err := verifyDetached(data, signature, keys, s.Now); err != nil {
			return nil, fmt.Errorf("%s/Release is refused: %w", dir, err)
		}
	}
	r, err := parseRelease(data)
	if err != nil {
		return nil, fmt.Errorf("%s: Release: %w", dir, err)
	}
	return r, nil
}

// index is the Packages file of a component, in the form that is the shortest.
func (s *Source) index(ctx context.Context, m *mirror, r *release, component string) (string, error) {
	base := fmt.Sprintf("%s/binary-%s/Packages", component, s.Arch)
	for _, ext := range []string{".xz", ".zst", ".gz", ""} {
		want, ok := r.files[base+ext]
		if !ok || want.size == 0 {
			continue
		}
		f, err := m.file(ctx, path.Join("dists", s.Suite, base+ext), want)
		if errors.Is(err, fs.ErrNotExist) { // a Release file lists also what is not there
			continue
		}
		if err != nil {
			return "", err
		}
		defer f.Close()
		unpacked, err := compression.NewReader(f)
		if err != nil {
			return "", fmt.Errorf("%s: %w", base+ext, err)
		}
		defer unpacked.Close()
		data, err := readAll(unpacked, base, indexMax)
		if err != nil {
			return "", fmt.Errorf("%s: %w", base+ext, err)
		}
		return string(data), nil
	}
	return "", fmt.Errorf("there is no index %s", base)
}

// parallel is how many packages are fetched at once, or wait for their turn.
const parallel = 8

// unpack fetches the packages, several at once, and unpacks them in their order.
func (s *Source) unpack(ctx context.Context, m *mirror, packages []*pkg, t *tree.Tree, store tree.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		file *os.File
		err  error
	}
	total := int64(0)
	waiting := make([]chan result, len(packages))
	for i, p := range packages {
		waiting[i] = make(chan result, 1)
		total += p.sum.size
	}
	s.total.Store(total)
	free := make(chan struct{}, parallel)
	go func() {
		for i, p := range packages {
			free <- struct{}{}
			go func() {
				f, err := m.file(ctx, p.file, p.sum)
				waiting[i] <- result{f, err}
			}()
		}
	}()
	u, err := newUnpacker(t, store)
	for i, p := range packages {
		r := <-waiting[i]
		<-free
		if err == nil {
			err = r.err
		}
		if err == nil {
			err = u.add(ctx, p, r.file)
			s.done.Add(p.sum.size)
		}
		if r.file != nil {
			r.file.Close()
		}
		if err != nil {
			cancel() // the rest comes to its end, so that no file stays open
		}
	}
	if err != nil {
		return err
	}
	return u.finish()
}

// system adds what no package has and a system needs.
func (s *Source) system(t *tree.Tree, packages []*pkg, components []string) error {
	if err := leaveConfigure(t, packages); err != nil || strings.HasPrefix(s.Mirror, "file:") {
		return err
	}
	line := fmt.Sprintf("deb %s %s %s\n", strings.TrimSuffix(s.Mirror, "/"), s.Suite, strings.Join(components, " "))
	return t.WriteFile("/etc/apt/sources.list", []byte(line), 0o644)
}

// orderFile names the packages in the order in which their preinst scripts are to run.
// ConfigureProgram takes it away.
const orderFile = "/.umlkit-packages"

// unsigned is a Release file out of an InRelease whose signature does not matter.
func unsigned(data []byte) []byte {
	text := string(data)
	if _, rest, ok := strings.Cut(text, "-----BEGIN PGP SIGNED MESSAGE-----\n"); ok {
		_, rest, _ = strings.Cut(rest, "\n\n")
		text, _, _ = strings.Cut(rest, "\n-----BEGIN PGP SIGNATURE-----")
	}
	return []byte(text)
}
