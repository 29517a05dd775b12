package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ubdfmt"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name:      "bench",
		Usage:     "measure how fast a disk is read or written",
		Category:  "disks",
		ArgsUsage: "IMAGE",
		Description: `umlimg bench disk.cow
umlimg bench -w --count 10000 --size 1M --flush-interval 100 scratch.cow`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "count", Aliases: []string{"c"}, Value: 75000, Usage: "so many requests"},
			&cli.IntFlag{Name: "depth", Aliases: []string{"d"}, Value: 64, Usage: "of which so many at once"},
			&cli.StringFlag{Name: "size", Aliases: []string{"s"}, Value: "4K", Usage: "bytes of a request"},
			&cli.StringFlag{Name: "step", Aliases: []string{"S"}, Usage: "bytes from one request to the next (default: --size)"},
			&cli.StringFlag{Name: "offset", Aliases: []string{"o"}, Value: "0", Usage: "where on the disk the first request is"},
			&cli.BoolFlag{Name: "write", Aliases: []string{"w"}, Usage: "write: what the disk holds there is lost"},
			&cli.IntFlag{Name: "pattern", Usage: "write bytes of this value, 0 to 255"},
			&cli.IntFlag{Name: "flush-interval", Usage: "make stable what is written, once in so many writes"},
			&cli.BoolFlag{Name: "no-drain", Usage: "flush beside writes, instead of waiting for those under way"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			b, err := benchOptions(c)
			if err != nil {
				return err
			}
			if err := benchImage(c, b, args[0]); err != nil {
				return fmt.Errorf("bench %s: %w", args[0], ofImage(args[0], err))
			}
			return nil
		},
	}
}

// benchRun is a run of requests. Sizes are bytes.
type benchRun struct {
	count, depth, flushEvery int
	size, step, offset       int64
	write, noDrain           bool
	pattern                  byte
}

// benchMemory bounds the buffers of all requests under way, in bytes.
const benchMemory = 1 << 30

func benchOptions(c *cli.Context) (b benchRun, err error) {
	b = benchRun{count: c.Int("count"), depth: c.Int("depth"), flushEvery: c.Int("flush-interval"), write: c.Bool("write"), noDrain: c.Bool("no-drain"), pattern: byte(c.Int("pattern"))}
	for _, o := range []struct {
		name string
		into *int64
	}{{"size", &b.size}, {"step", &b.step}, {"offset", &b.offset}} {
		text := c.String(o.name)
		if o.name == "step" && text == "" {
			b.step = b.size
			continue
		}
		if *o.into, err = parseBytes(text); err != nil {
			return b, usagef("bench: --%s %q: %w", o.name, text, err)
		}
	}
	for _, o := range []struct {
		name        string
		least, most int
	}{{"count", 1, math.MaxInt32}, {"depth", 1, 4096}, {"pattern", 0, 255}, {"flush-interval", 1, math.MaxInt32}} {
		if n := c.Int(o.name); (n < o.least || n > o.most) && c.IsSet(o.name) {
			return b, usagef("bench: --%s %d: from %d to %d", o.name, n, o.least, o.most)
		}
	}
	switch {
	case b.size == 0:
		return b, usagef("bench: --size 0: a request has at least one byte")
	case b.size > benchMemory/int64(b.depth):
		return b, usagef("bench: %d requests of %d bytes at once are more than 1 GiB: a smaller --depth would do", b.depth, b.size)
	case !b.write && (c.IsSet("pattern") || c.IsSet("flush-interval")):
		return b, usagef("bench: --pattern and --flush-interval are of writes: add --write")
	case b.noDrain && b.flushEvery == 0:
		return b, usagef("bench: --no-drain is of --flush-interval")
	case b.flushEvery > 0 && b.flushEvery < b.depth && !b.noDrain:
		return b, usagef("bench: --flush-interval %d is less than --depth %d, so that these many are never under way; or give --no-drain", b.flushEvery, b.depth)
	}
	return b, nil
}

// benchResult is what --json prints.
type benchResult struct {
	Filename string  `json:"filename"`
	Requests int     `json:"requests"`
	Write    bool    `json:"write"`
	Size     int64   `json:"size"`
	Depth    int     `json:"depth"`
	Flushes  int     `json:"flushes"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"requests-per-second"`
	Bytes    float64 `json:"bytes-per-second"`
}

func benchImage(c *cli.Context, b benchRun, path string) error {
	dev, err := openImage(path, ubdfmt.Options{ReadOnly: !b.write})
	if err != nil {
		return err
	}
	defer dev.Close()
	if b.size > dev.Size() || b.offset > dev.Size()-b.size {
		return usagef("%d bytes at %d are not within the disk's %d", b.size, b.offset, dev.Size())
	}
	silent := c.Bool("quiet") || c.Bool("json")
	if !silent {
		kind := "read"
		if b.write {
			kind = "write"
		}
		fmt.Fprintf(c.App.Writer, "Sending %d %s requests, %d bytes each, %d in parallel (starting at offset %d, step size %d)\n", b.count, kind, b.size, b.depth, b.offset, b.step)
		if b.flushEvery > 0 {
			drain := ""
			if b.noDrain {
				drain = "without draining "
			}
			fmt.Fprintf(c.App.Writer, "Sending flush %severy %d requests\n", drain, b.flushEvery)
		}
	}
	bar := newProgress(c.App.ErrWriter)
	start := time.Now()
	flushes, err := b.run(c.Context, dev, bar.tell)
	took := time.Since(start).Seconds()
	bar.finish()
	// What the device keeps in memory, as the bitmap of a COW file, belongs to the image.
	if err := errors.Join(err, dev.Sync()); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, benchResult{path, b.count, b.write, b.size, b.depth, flushes, took, float64(b.count) / took, float64(b.count) * float64(b.size) / took})
	}
	if silent {
		return nil
	}
	_, err = fmt.Fprintf(c.App.Writer, "Run completed in %.3f seconds.\n", took)
	return err
}

// run sends the requests, and returns how often it flushed.
func (b benchRun) run(ctx context.Context, dev ubdfmt.Device, tell func(done, total int64)) (flushes int, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	type request struct {
		off  int64
		sync bool
	}
	requests := make(chan request)
	var workers, underWay sync.WaitGroup
	for range min(b.depth, b.count) {
		workers.Go(func() {
			buf := bytes.Repeat([]byte{b.pattern}, int(b.size))
			for r := range requests {
				if ctx.Err() == nil {
					if err := b.send(dev, buf, r.off, r.sync); err != nil {
						stop(err)
					}
				}
				underWay.Done()
			}
		})
	}
	send := func(r request) {
		underWay.Add(1)
		requests <- r
	}
	off := b.offset
	for i := 1; i <= b.count && ctx.Err() == nil; i++ {
		send(request{off: off})
		off = b.next(off, dev.Size())
		if b.flushEvery > 0 && i%b.flushEvery == 0 {
			if !b.noDrain {
				underWay.Wait()
			}
			send(request{sync: true})
			if !b.noDrain {
				underWay.Wait()
			}
			flushes++
		}
		if i%256 == 0 {
			tell(int64(i)*b.size, int64(b.count)*b.size)
		}
	}
	close(requests)
	workers.Wait()
	return flushes, context.Cause(ctx)
}

// next is where the request after one at off is: it begins anew where the disk ends.
func (b benchRun) next(off, size int64) int64 {
	if off = (off + b.step%size) % size; off <= size-b.size {
		return off
	}
	return 0
}

func (b benchRun) send(dev ubdfmt.Device, buf []byte, off int64, sync bool) error {
	switch {
	case sync:
		return dev.Sync()
	case b.write:
		_, err := dev.WriteAt(buf, off)
		return err
	}
	n, err := dev.ReadAt(buf, off)
	if n == len(buf) && err == io.EOF {
		err = nil
	}
	return err
}
