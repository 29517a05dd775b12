package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/umlkit/umlkit/rootfs/compression"
	"github.com/umlkit/umlkit/rootfs/tarball"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// measure holds the sizes of all layers against what was said of them, before the first
// is read.
func (s *Source) measure(m *image) error {
	total := int64(0)
	for i := range m.layers {
		l := &m.layers[i]
		r, size, err := s.files.open(l.name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("layer %d of %d is not there: %w", i+1, len(m.layers), err)
		}
		if err != nil {
			return err
		}
		r.Close()
		if l.size >= 0 && size != l.size {
			return fmt.Errorf("%s has %d bytes, not %d", l.name, size, l.size)
		}
		l.size = size
		total += size
	}
	s.total.Store(total)
	return nil
}

// checked is a stream that is counted and summed as it is read.
type checked struct {
	r    io.Reader
	sum  hash.Hash // nil: only counted
	tell func(n int)
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	if c.tell != nil {
		c.tell(n)
	}
	return n, err
}

// is says whether all that was read has a digest.
func (c *checked) is(digest v1.Hash) bool { return hex.EncodeToString(c.sum.Sum(nil)) == digest.Hex }

// errBomb is why a layer is not unpacked to its end.
var errBomb = fmt.Errorf("the layers unpack to more than %d GiB", int64(unpackedMax)>>30)

// bounded ends with errBomb when its room is used up.
type bounded struct {
	r    io.Reader
	room *int64
}

func (b bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if *b.room -= int64(n); *b.room < 0 {
		return 0, errBomb
	}
	return n, err
}

// add puts one layer over the tree. Three goroutines work on it: one unpacks, one sums,
// and this one writes.
func (s *Source) add(ctx context.Context, name string, layers *tarball.Layers, room *int64, l blob, diffID v1.Hash, t *tree.Tree, store tree.Store) error {
	file, size, err := s.files.open(l.name)
	if err != nil {
		return err
	}
	defer file.Close()
	packed := &checked{r: io.LimitReader(file, size), tell: func(n int) { s.done.Add(int64(n)) }}
	if l.digest.Hex != "" && l.digest != diffID { // the same digest is that of a plain layer
		packed.sum = sha256.New()
	}
	unpacked, err := compression.NewReader(packed)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	plain := &checked{r: compression.Ahead(ctx, bounded{unpacked, room}), sum: sha256.New()}
	ahead := compression.Ahead(ctx, plain)
	defer func() {
		ahead.Close()
		plain.r.(io.Closer).Close()
		if ctx.Err() == nil { // else someone may still be reading it
			unpacked.Close()
		}
	}()
	if err := layers.Add(ctx, name, t, store, ahead); err != nil {
		return err
	}
	// What follows the archive's end counts for the digests.
	for _, rest := range []io.Reader{ahead, packed} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return fmt.Errorf("%s: after the last entry: %w", name, err)
		}
	}
	if packed.sum != nil && !packed.is(l.digest) {
		return fmt.Errorf("%s is damaged: its digest is not that of its name", name)
	}
	if !plain.is(diffID) {
		return fmt.Errorf("%s, unpacked, is not what the configuration says: its digest is not %s", name, diffID)
	}
	return nil
}
