package main

import (
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
	buf := make([]byte, 1<<20)
	visitErr := dev.Extents(0, dev.Size(), func(e ubdfmt.Extent) bool {
		if e.File == nil {
			return true
		}
		for off, end := e.Offset, e.Offset+e.Length; off < end; {
			if err = ctx.Err(); err != nil {
				return false
			}
			p := buf[:min(int64(len(buf)), end-off)]
			n, readErr := dev.ReadAt(p, off)
			if readErr != nil && !(n == len(p) && errors.Is(readErr, io.EOF)) {
				err = readErr
				return false
			}
			for i, b := range p {
				if b != 0 {
					at = off + int64(i)
					return false
				}
			}
			off += int64(n)
		}
		return true
	})
	return at, errors.Join(err, visitErr)
}
