package qcow2

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// decodedClusters keeps the clusters decompressed last, for reads of less than a whole
// one. Each has the one place that its index gives it.
type decodedClusters []atomic.Pointer[decoded]

type decoded struct {
	index int64
	data  []byte
}

// newDecodedClusters makes room for a MiB of clusters, or for two of them.
func newDecodedClusters(size int64) *decodedClusters {
	c := make(decodedClusters, min(max(1<<20/size, 2), 64))
	return &c
}

// readCompressed reads a part of one compressed cluster.
func (im *Image) readCompressed(p []byte, off int64, r run) error {
	size := im.header.ClusterSize
	if int64(len(p)) == size {
		return im.decompress(p, off, r)
	}
	index := off / size
	place := &(*im.decoded)[index%int64(len(*im.decoded))]
	c := place.Load()
	if c == nil || c.index != index {
		c = &decoded{index, make([]byte, size)}
		if err := im.decompress(c.data, off, r); err != nil {
			return err
		}
		place.Store(c)
	}
	copy(p, c.data[off%size:])
	return nil
}

// inflater decompresses clusters, one at a time.
type inflater struct {
	stored  []byte
	in      bytes.Reader
	deflate io.ReadCloser // nil until needed
	zstd    *zstd.Decoder // nil until needed
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// maxWindow bounds what a zstd frame can make us allocate: no cluster is larger.
const maxWindow = 8 << 20

// decompress fills p, a whole cluster, of which off is an offset.
func (im *Image) decompress(p []byte, off int64, r run) error {
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	if int64(cap(f.stored)) < r.stored {
		f.stored = make([]byte, r.stored)
	}
	f.stored = f.stored[:r.stored]
	if err := readPadded(im.file, f.stored, r.host); err != nil {
		return err
	}
	f.in.Reset(f.stored)
	// Behind the cluster's end is another one, or anything: it is not looked at.
	out, err := f.reader(im.header.Compression)
	if err == nil {
		_, err = io.ReadFull(out, p)
	}
	if err != nil {
		return im.bad("compressed cluster's offset", uint64(r.host), "of the disk's offset %d: %v", off, err)
	}
	return nil
}

func (f *inflater) reader(method string) (io.Reader, error) {
	if method == "zstd" {
		if f.zstd == nil {
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				return nil, fmt.Errorf("zstd: %w", err)
			}
			f.zstd = d
		}
		return f.zstd, f.zstd.Reset(&f.in)
	}
	if f.deflate == nil {
		f.deflate = flate.NewReader(&f.in)
		return f.deflate, nil
	}
	return f.deflate, f.deflate.(flate.Resetter).Reset(&f.in, nil)
}
