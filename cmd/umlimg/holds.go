package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

// contentOf says what a disk holds, "" for nothing but zeros.
func contentOf(ctx context.Context, dev ubdfmt.Device) (string, error) {
	t, err := partition.Read(dev)
	var bad *partition.Error
	switch {
	case err == nil:
		return fmt.Sprintf("a partition table (%s)", t.Kind), nil
	case errors.As(err, &bad):
		return "a damaged partition table", nil
	case !errors.Is(err, partition.ErrNone):
		return "", err
	}
	if fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true, NoWrite: true}); err == nil {
		return "an ext file system", fs.Close()
	}
	at, err := firstData(ctx, dev)
	if err != nil || at < 0 {
		return "", err
	}
	return fmt.Sprintf("data at byte %d", at), nil
}

// firstData is where the first byte lies that is not zero, -1 for none. Holes are not read.
func firstData(ctx context.Context, dev ubdfmt.Device) (at int64, err error) {
	at = -1
	err = eachData(ctx, dev, func(off int64, b []byte) bool {
		at = off + int64(bytes.IndexFunc(b, func(r rune) bool { return r != 0 }))
		return false
	})
	return at, err
}

// onlyTable says whether a disk holds nothing but what the making of a table like t left
// that was cut short.
func onlyTable(ctx context.Context, dev ubdfmt.Device, t partition.Table) (bool, error) {
	left, err := partition.Begun(dev, t)
	if err != nil {
		return false, err
	}
	only := true
	err = eachData(ctx, dev, func(off int64, b []byte) bool {
		only = left(off/ubdfmt.SectorSize, b)
		return only
	})
	return only, err
}

// eachData visits the sectors that are not zeros, as long as visit says so. Holes are not
// read.
func eachData(ctx context.Context, dev ubdfmt.Device, visit func(off int64, b []byte) bool) (err error) {
	buf := make([]byte, 1<<20)
	visitErr := dev.Extents(0, dev.Size(), func(e ubdfmt.Extent) bool {
		if e.File == nil {
			return true
		}
		// An extent may begin or end within a sector.
		const within = ubdfmt.SectorSize - 1
		for off, end := e.Offset&^within, min((e.Offset+e.Length+within)&^within, dev.Size()); off < end; {
			if err = ctx.Err(); err != nil {
				return false
			}
			p := buf[:min(int64(len(buf)), end-off)]
			n, readErr := dev.ReadAt(p, off)
			if readErr != nil && !(n == len(p) && errors.Is(readErr, io.EOF)) {
				err = readErr
				return false
			}
			for at := 0; at < n; at += ubdfmt.SectorSize {
				b := p[at:min(at+ubdfmt.SectorSize, n)]
				if len(bytes.Trim(b, "\x00")) > 0 && !visit(off+int64(at), b) {
					return false
				}
			}
			off += int64(n)
		}
		return true
	})
	return errors.Join(err, visitErr)
}
