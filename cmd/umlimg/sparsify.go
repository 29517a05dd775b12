package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
)

func sparsifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "sparsify",
		Usage:     "give the host back what an image does not need",
		Category:  "disks",
		ArgsUsage: "IMAGE[#N]",
		Description: `umlimg sparsify disk.img
umlimg sparsify 'disk.img#1'
umlimg sparsify --zeros base.img`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "zeros", Usage: "only make holes of zeros, and leave the file system alone"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			if err := sparsify(c, args[0]); err != nil {
				return fmt.Errorf("sparsify %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// sparsifySummary is what --json prints. Sizes are bytes.
type sparsifySummary struct {
	Image  string `json:"image"`
	Size   int64  `json:"size"`
	Before int64  `json:"before"`
	// Allocated is what the file takes on the host afterwards, as du counts.
	Allocated int64 `json:"allocated"`
	// Filesystem says whether free blocks of one were looked for; Free is how much of
	// them was in the file, Zeros how much else was zeros.
	Filesystem bool    `json:"filesystem"`
	Free       int64   `json:"free"`
	Zeros      int64   `json:"zeros"`
	Seconds    float64 `json:"seconds"`
}

func sparsify(c *cli.Context, operand string) error {
	start := time.Now()
	path, number := splitPartition(operand)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	dev, err := openWhole(path, ubdfmt.Options{})
	if err != nil {
		return err
	}
	s := &sparsifier{Device: dev}
	first, n, err := s.partOf(number)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	sum := sparsifySummary{Image: operand, Size: n}
	sum.Before, err = allocated(path)
	if err == nil && !c.Bool("zeros") {
		if number > 0 {
			sum.Filesystem, err = s.freeOf(c.Context, partition.NewSection(s, first, n))
		} else {
			sum.Filesystem, err = s.freeBlocks(c.Context)
		}
		sum.Free, s.given = s.given, 0
	}
	if err == nil {
		bar := newProgress(c.App.ErrWriter)
		err = s.zeros(c.Context, first, n, bar.tell)
		bar.finish()
		sum.Zeros = s.given
	}
	err = errors.Join(err, dev.Close())
	if !s.changed {
		// The disk shows what it showed: COW files over it need not mind.
		if terr := os.Chtimes(path, time.Time{}, info.ModTime()); terr != nil && !errors.Is(terr, os.ErrPermission) {
			err = errors.Join(err, terr)
		}
	}
	if err != nil || !c.Bool("json") {
		return err
	}
	if sum.Allocated, err = allocated(path); err != nil {
		return err
	}
	sum.Seconds = time.Since(start).Seconds()
	return printJSON(c, sum)
}

// sparsifier is an image that is to take less of its host's space. Whatever ends it, the
// image is good, and sparsifying it again goes on.
type sparsifier struct {
	ubdfmt.Device
	changed bool // the disk may show something else than before
	mu      sync.Mutex
	given   int64 // what was given back, in bytes
}

// Trim gives back the whole blocks of a range that the image's own file holds. What only
// the backing file has takes no space in a COW file, and remembering that it is free would.
func (s *sparsifier) Trim(off, n int64) error {
	var held []ubdfmt.Extent
	err := s.Extents(off, n, func(e ubdfmt.Extent) bool {
		if e.File != nil && e.Depth == 0 {
			if k := len(held); k > 0 && held[k-1].Offset+held[k-1].Length == e.Offset {
				held[k-1].Length += e.Length
			} else {
				held = append(held, e)
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, e := range held {
		first, last := roundBlock(e.Offset), (e.Offset+e.Length)/blockGrain*blockGrain
		if e.Offset+e.Length == s.Size() {
			last = s.Size()
		}
		if first >= last {
			continue
		}
		if err := s.Device.Trim(first, last-first); err != nil {
			return err
		}
		s.mu.Lock()
		s.given += last - first
		s.mu.Unlock()
	}
	return nil
}

// partOf is where the partition with a number lies, or the whole disk for 0.
func (s *sparsifier) partOf(number int) (off, n int64, err error) {
	if number == 0 {
		return 0, s.Size(), nil
	}
	part, err := partition.Open(s.Device, number)
	if err != nil {
		return 0, 0, err
	}
	return part.Start(), part.Size(), nil
}

func roundBlock(n int64) int64 { return (n + blockGrain - 1) / blockGrain * blockGrain }

// freeBlocks gives back the free blocks of the file systems, that of the disk or those of
// its partitions, whose journals are replayed first. It tells whether there is one.
func (s *sparsifier) freeBlocks(ctx context.Context) (bool, error) {
	t, err := partition.Read(s)
	if errors.Is(err, partition.ErrNone) {
		return s.freeOf(ctx, s)
	}
	if err != nil {
		return false, withoutFilesystem(err)
	}
	some := false
	for _, p := range t.Partitions {
		if p.Extended {
			continue
		}
		found, err := s.freeOf(ctx, partition.NewSection(s, p.Start, p.Size))
		some = some || found
		if err != nil {
			return some, fmt.Errorf("partition %d: %w", p.Number, err)
		}
	}
	return some, nil
}

// freeOf gives back the free blocks of one file system.
func (s *sparsifier) freeOf(ctx context.Context, dev ubdfmt.Device) (bool, error) {
	look, err := ext4.Open(dev, ext4.Options{ReadOnly: true, NoWrite: true})
	var other *ext4.NotExtError
	if errors.As(err, &other) {
		return false, nil
	}
	if err != nil {
		return false, withoutFilesystem(err)
	}
	check := look.Info().NeedsCheck
	if err := look.Close(); err != nil {
		return false, err
	}
	if check {
		return false, withoutFilesystem(errors.New("errors were found in the file system, e2fsck must run first"))
	}
	s.changed = true
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		return false, withoutFilesystem(err)
	}
	_, err = fs.Trim(ctx, 0, dev.Size(), 0)
	return true, errors.Join(err, fs.Close())
}

// withoutFilesystem names the way out.
func withoutFilesystem(err error) error {
	return fmt.Errorf("%w (--zeros leaves the file system alone)", err)
}

// zeros makes holes of the blocks of [first, first+length) in the image's own file that are
// zeros.
func (s *sparsifier) zeros(outer context.Context, first, length int64, progress func(done, total int64)) error {
	ctx, stop := context.WithCancelCause(outer)
	defer stop(nil)
	type piece struct{ off, n int64 }
	pieces := make(chan piece)
	var workers sync.WaitGroup
	for range min(max(runtime.GOMAXPROCS(0), 2), 8) {
		workers.Go(func() {
			b := make([]byte, pieceLength)
			for p := range pieces {
				if ctx.Err() != nil {
					continue
				}
				if err := s.zerosOf(b[:p.n], p.off); err != nil {
					stop(err)
				}
			}
		})
	}
	err := s.Extents(first, length, func(e ubdfmt.Extent) bool {
		if e.File == nil || e.Depth != 0 {
			return ctx.Err() == nil
		}
		for off, end := roundBlock(e.Offset), e.Offset+e.Length; off < end; {
			n := min(end-off, pieceLength-off%pieceLength)
			select {
			case pieces <- piece{off, n}:
			case <-ctx.Done():
				return false
			}
			off += n
		}
		progress(e.Offset+e.Length-first, length)
		return true
	})
	close(pieces)
	workers.Wait()
	return firstError(outer, ctx, err)
}

// zerosOf makes holes of the zeros in a piece, which begins with a block.
func (s *sparsifier) zerosOf(b []byte, off int64) error {
	if _, err := s.ReadAt(b, off); err != nil {
		return err
	}
	for at := 0; at < len(b); {
		end := at
		for end < len(b) && isZero(b[end:min(len(b), end+blockGrain)]) {
			end = min(len(b), end+blockGrain)
		}
		if end > at {
			if err := s.Trim(off+int64(at), int64(end-at)); err != nil {
				return err
			}
		}
		at = end + blockGrain
	}
	return nil
}
