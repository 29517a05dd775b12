package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4/mkfs"
)

// fsOptions are what --fs-option knows. usage is for the manual page's test and the
// help text.
var fsOptions = []struct {
	name string
	set  func(o *mkfs.Options, value string) error
}{
	{"type", func(o *mkfs.Options, v string) error { o.Type = v; return nil }},
	{"block-size", func(o *mkfs.Options, v string) (err error) { o.BlockSize, err = intOf(v, 1024, 4096); return }},
	{"inode-size", func(o *mkfs.Options, v string) (err error) { o.InodeSize, err = intOf(v, 128, 4096); return }},
	{"inode-ratio", func(o *mkfs.Options, v string) (err error) {
		o.InodeRatio, err = positive(v)
		return
	}},
	{"inodes", func(o *mkfs.Options, v string) (err error) {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 0 {
			return errors.New("a number of inodes is from 1 to 4294967295")
		}
		o.Inodes = int64(n)
		return nil
	}},
	{"journal", nil}, // needs the block size: set last
	{"reserved", func(o *mkfs.Options, v string) error {
		percent, err := strconv.ParseFloat(v, 64)
		if err != nil || !(percent >= 0 && percent <= 50) {
			return errors.New("a percentage is from 0 to 50")
		}
		o.ReservedPercent, o.NoReserve = percent, percent == 0
		return nil
	}},
	{"features", func(o *mkfs.Options, v string) error {
		o.Features = append(o.Features, strings.Split(v, ",")...)
		return nil
	}},
	{"mount-options", func(o *mkfs.Options, v string) error {
		o.MountOptions = append(o.MountOptions, strings.Split(v, ",")...)
		return nil
	}},
	{"errors", func(o *mkfs.Options, v string) error { o.Errors = v; return nil }},
	{"root-owner", func(o *mkfs.Options, v string) error {
		ids, err := parseIDs(v, 2, 2)
		if err != nil {
			return fmt.Errorf("%w, as in 0:0", err)
		}
		o.RootOwner = &mkfs.Owner{UID: ids[0], GID: ids[1]}
		return nil
	}},
	{"stride", func(o *mkfs.Options, v string) (err error) { o.Stride, err = count(v, 1<<16-1); return }},
	{"stripe-width", func(o *mkfs.Options, v string) (err error) { o.StripeWidth, err = count(v, 1<<31-1); return }},
	{"resize-limit", func(o *mkfs.Options, v string) (err error) { o.ResizeLimit, err = positive(v); return }},
	{"lazy-tables", func(o *mkfs.Options, v string) error {
		if v != "yes" && v != "no" {
			return errors.New("yes or no")
		}
		o.LazyTables = v == "yes"
		return nil
	}},
	{"last-mounted", func(o *mkfs.Options, v string) error { o.LastMounted = v; return nil }},
	{"hash-seed", func(o *mkfs.Options, v string) (err error) { o.HashSeed, err = parseUUID(v); return }},
}

func fsOptionNames() string {
	var names []string
	for _, f := range fsOptions {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

func intOf(text string, least, most int64) (int, error) {
	n, err := parseBytes(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("a size is from %d to %d", least, most)
	}
	return int(n), nil
}

// count reads a number of blocks.
func count(text string, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("a number of blocks is from 1 to %d", most)
	}
	return n, nil
}

func positive(text string) (int64, error) {
	n, err := parseBytes(text)
	if err == nil && n == 0 {
		err = errors.New("a size above 0")
	}
	return n, err
}

// filesystem reads the options that say which ext4 to make.
func (p *buildPlan) filesystem(c *cli.Context) error {
	o := &p.options.Filesystem
	o.Label = c.String("label")
	if len(o.Label) > 16 {
		return usagef("--label %.40q has %d bytes, the limit is 16", o.Label, len(o.Label))
	}
	o.Time = time.Now()
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
		sec, err := strconv.ParseInt(text, 10, 64)
		if err != nil || sec < 0 || sec > 1<<34-1<<31-1 {
			return usagef("SOURCE_DATE_EPOCH=%s is no number of seconds since 1970", text)
		}
		o.Time, p.options.Reproducible = time.Unix(sec, 0), true
	}
	var err error
	if text := c.String("uuid"); c.IsSet("uuid") {
		if o.UUID, err = parseUUID(text); err != nil {
			return usagef("--uuid %q: %w", text, err)
		}
	} else {
		o.UUID = randomUUID()
	}
	if err := p.fsOptions(c); err != nil {
		return err
	}
	// A plan says of options what is wrong with them whatever the disk.
	if _, err := mkfs.NewBuilder(nil, *o); err != nil {
		return usageError{err}
	}
	return nil
}

func (p *buildPlan) fsOptions(c *cli.Context) error {
	o := &p.options.Filesystem
	journal := ""
	for _, text := range c.StringSlice("fs-option") {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return usagef("--fs-option %q: write OPTION=VALUE; options are %s", text, fsOptionNames())
		}
		if name == "journal" {
			journal = value
			continue
		}
		if err := setFSOption(o, name, value); err != nil {
			return usagef("--fs-option %s: %w", text, err)
		}
	}
	if journal == "" {
		return nil
	}
	if journal == "none" {
		o.NoJournal = true
		return nil
	}
	n, err := positive(journal)
	if err != nil {
		return usagef("--fs-option journal=%s: a size, or none", journal)
	}
	block := int64(4096)
	if o.BlockSize != 0 {
		block = int64(o.BlockSize)
	}
	o.JournalBlocks = max(n/block, 1)
	return nil
}

func setFSOption(o *mkfs.Options, name, value string) error {
	for _, f := range fsOptions {
		if f.name == name {
			return f.set(o, value)
		}
	}
	return fmt.Errorf("options are %s", fsOptionNames())
}

// parseUUID reads the usual form, 8-4-4-4-12 hexadecimal digits. The zero UUID is none.
func parseUUID(text string) (id [16]byte, err error) {
	bad := errors.New("a UUID is like 6ba7b810-9dad-41d1-80b4-00c04fd430c8, and not all zero")
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, bad
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, bad
	}
	copy(id[:], raw)
	if id == [16]byte{} {
		return id, bad
	}
	return id, nil
}

// randomUUID is a UUID of version 4.
func randomUUID() (id [16]byte) {
	rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

func uuidText(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
