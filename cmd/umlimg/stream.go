package main

import (
	"context"
	"io"

	"github.com/umlkit/umlkit/rootfs/compression"
)

// interruptible reads what may wait for ever, a pipe, until the context ends.
func interruptible(ctx context.Context, r io.ReadCloser) io.ReadCloser {
	return &pipe{compression.Ahead(ctx, r), ctx, r}
}

type pipe struct {
	io.ReadCloser
	ctx context.Context
	r   io.Closer
}

func (p *pipe) Close() error {
	err := p.ReadCloser.Close()
	if p.ctx.Err() != nil {
		return nil // someone may still be reading it
	}
	if e := p.r.Close(); err == nil {
		err = e
	}
	return err
}
