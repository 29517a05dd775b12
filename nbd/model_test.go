package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// Clients write, trim, zero and read, each in a part of the disk of its own, and see what
// a slice of bytes would have. What is on the disk afterwards is that, too.
func TestModel(t *testing.T) {
	const clients, part = 4, 1<<20 + 512
	rounds := 150
	if oracle.Nightly() {
		rounds = 5000
	}
	seed := uint64(oracle.Seed(t))
	for _, kind := range []string{"raw", "COW"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			model := make([]byte, clients*part)
			for i := range model[:len(model)/2] {
				model[i] = byte(i>>9) | 1
			}
			path := filepath.Join(dir, "disk.img")
			if err := os.WriteFile(path, model, 0o600); err != nil {
				t.Fatal(err)
			}
			if kind == "COW" {
				cow := filepath.Join(dir, "disk.cow")
				if err := ubdfmt.CreateCOW(cow, path, ubdfmt.Options{}); err != nil {
					t.Fatal(err)
				}
				path = cow
			}
			dev, err := ubdfmt.Open(path, "", ubdfmt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t, &Server{Export: Export{Device: dev}})
			var all sync.WaitGroup
			for i := range clients {
				c := s.start(i%2 == 0)
				all.Go(func() {
					r := rand.New(rand.NewPCG(seed, uint64(i)))
					for n := range rounds {
						if err := randomly(c, r, model[i*part:(i+1)*part], uint64(i*part)); err != nil {
							t.Errorf("seed %d, client %d, request %d: %v", seed, i, n, err)
							return
						}
					}
				})
			}
			all.Wait()
			s.end()
			if err := dev.Close(); err != nil {
				t.Fatal(err)
			}
			dev, err = ubdfmt.Open(path, "", ubdfmt.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			got := make([]byte, len(model))
			if _, err := dev.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, model) {
				t.Error("the disk is not what the clients saw")
			}
			if kind == "COW" {
				if report, err := ubdfmt.Check(path, ubdfmt.CheckOptions{}); err != nil || len(report.Problems) > 0 {
					t.Errorf("%+v, %v", report.Problems, err)
				}
			}
		})
	}
}

// randomly sends a request, or a few that do not meet, and compares with the model, which
// lies at base of the disk.
func randomly(c *client, r *rand.Rand, model []byte, base uint64) error {
	off := r.IntN(len(model))
	n := 1 + r.IntN(min(len(model)-off, []int{700, 9000, 1 << 20}[r.IntN(3)]))
	if r.IntN(2) == 0 {
		off = off / 512 * 512
	}
	fua := uint16(r.IntN(20) / 19)
	mine := model[off : off+n]
	at := base + uint64(off)
	switch r.IntN(7) {
	case 0, 1:
		for i := range mine {
			mine[i] = byte(r.Uint32())
		}
		return fails(c.do(fua, cmdWrite, at, uint32(n), mine))
	case 2:
		clear(mine)
		return fails(c.do(fua, cmdTrim, at, uint32(n))) // by which Devices make zeros
	case 3:
		clear(mine)
		return fails(c.do(fua|uint16(r.IntN(2))*cmdFlagNoHole, cmdWriteZeroes, at, uint32(n)))
	case 4:
		return fails(c.do(0, cmdFlush, 0, 0))
	case 5:
		if !c.structured {
			return nil
		}
		all, e := c.status(0, at, uint32(n))
		if e != 0 {
			return fails(e)
		}
		for _, x := range all {
			part := mine[:min(len(mine), int(x.length))]
			if mine = mine[len(part):]; x.state != 0 && bytes.ContainsFunc(part, func(c rune) bool { return c != 0 }) {
				return errors.New("a hole that is not zeros")
			}
		}
		if len(mine) > 0 {
			return fmt.Errorf("the status ends %d bytes before what was asked for", len(mine))
		}
		return nil
	}
	data, _, e := c.read(0, at, n)
	if e != 0 {
		return fails(e)
	}
	if !bytes.Equal(data, mine) {
		return fmt.Errorf("%d bytes at %d are not what was written", n, at)
	}
	return nil
}

func fails(e errno) error {
	if e != 0 {
		return fmt.Errorf("error %d", e)
	}
	return nil
}
