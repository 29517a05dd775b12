package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// maxBlock bounds bs=: a buffer of that size is made.
const maxBlock = 1 << 30

type dd struct {
	in, out                  *os.File
	ibs, obs                 int64
	count                    int64 // -1: all
	skip, seek               int64
	countBytes               bool
	skipBytes, seekBytes     bool
	fullBlock                bool
	conv                     map[string]bool
	status                   string
	inFull, inPart           int64
	outFull, outPart, copied int64
}

// Dd copies and converts in blocks.
func Dd(e *applet.Env, args []string) error {
	d := &dd{in: os.Stdin, out: os.Stdout, ibs: 512, obs: 512, count: -1, conv: map[string]bool{}}
	var input, output string
	bs := int64(0)
	iflags, oflags := 0, 0
	for _, arg := range args {
		if arg == "--help" {
			_, err := new(applet.Options).Parse(args)
			return err
		}
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return applet.Usagef("unrecognized operand %s", applet.Quote(arg))
		}
		var err error
		switch name {
		case "if":
			input = value
		case "of":
			output = value
		case "bs":
			bs, err = blockSize(value)
		case "ibs":
			d.ibs, err = blockSize(value)
		case "obs":
			d.obs, err = blockSize(value)
		case "count":
			d.count, d.countBytes, err = amount(value)
		case "skip", "iseek":
			d.skip, d.skipBytes, err = amount(value)
		case "seek", "oseek":
			d.seek, d.seekBytes, err = amount(value)
		case "conv":
			err = words(value, d.conv, "notrunc", "excl", "nocreat", "fsync", "fdatasync", "noerror", "sync", "sparse", "ucase", "lcase", "swab")
		case "iflag":
			iflags, err = d.flags(value, true)
		case "oflag":
			oflags, err = d.flags(value, false)
		case "status":
			if value != "none" && value != "noxfer" && value != "progress" {
				err = applet.Usagef("invalid status level: %s", applet.Quote(value))
			}
			d.status = value
		default:
			err = applet.Usagef("unrecognized operand %s", applet.Quote(arg))
		}
		if err != nil {
			return err
		}
	}
	if bs > 0 {
		d.ibs, d.obs = bs, bs
	}
	if err := d.open(input, output, iflags, oflags); err != nil {
		return err
	}
	start := time.Now()
	err := d.run(e)
	if err == nil && d.conv["fsync"] {
		err = d.out.Sync()
	}
	if err == nil && d.conv["fdatasync"] {
		err = unix.Fdatasync(int(d.out.Fd()))
	}
	if err == nil && output != "" {
		err = d.out.Close()
	}
	if err != nil {
		e.Warn(err)
	}
	d.report(e, time.Since(start))
	return nil
}

func blockSize(s string) (int64, error) {
	n, err := product(s)
	if err == nil && (n < 1 || n > maxBlock) {
		err = applet.Usagef("invalid number: %s: a block has 1 to %d bytes", applet.Quote(s), maxBlock)
	}
	return n, err
}

// amount reads a number of blocks, or of bytes when it ends in B.
func amount(s string) (n int64, inBytes bool, err error) {
	n, err = product(s)
	return n, strings.HasSuffix(s, "B"), err
}

// product reads sizes joined by x.
func product(s string) (int64, error) {
	n := int64(1)
	if strings.HasSuffix(s, "B") && len(s) > 1 && s[len(s)-2] >= '0' && s[len(s)-2] <= '9' {
		s = s[:len(s)-1]
	}
	for f := range strings.SplitSeq(s, "x") {
		v, err := applet.Size(f)
		if err != nil {
			return 0, err
		}
		if v != 0 && n > (1<<62)/v {
			return 0, applet.Usagef("number %s is too large", applet.Quote(s))
		}
		n *= v
	}
	return n, nil
}

func words(list string, set map[string]bool, known ...string) error {
next:
	for w := range strings.SplitSeq(list, ",") {
		for _, k := range known {
			if w == k {
				set[w] = true
				continue next
			}
		}
		return applet.Usagef("invalid conversion: %s", applet.Quote(w))
	}
	return nil
}

func (d *dd) flags(list string, input bool) (int, error) {
	bits := 0
	for w := range strings.SplitSeq(list, ",") {
		switch {
		case w == "direct":
			bits |= unix.O_DIRECT
		case w == "sync":
			bits |= unix.O_SYNC
		case w == "dsync":
			bits |= unix.O_DSYNC
		case w == "directory":
			bits |= unix.O_DIRECTORY
		case w == "nofollow":
			bits |= unix.O_NOFOLLOW
		case w == "noatime":
			bits |= unix.O_NOATIME
		case w == "nonblock":
			bits |= unix.O_NONBLOCK
		case w == "append" && !input:
			bits |= unix.O_APPEND
			d.conv["notrunc"] = true
		case w == "fullblock" && input:
			d.fullBlock = true
		case w == "count_bytes" && input:
			d.countBytes = true
		case w == "skip_bytes" && input:
			d.skipBytes = true
		case w == "seek_bytes" && !input:
			d.seekBytes = true
		default:
			return 0, applet.Usagef("invalid flag: %s", applet.Quote(w))
		}
	}
	return bits, nil
}

func (d *dd) open(input, output string, iflags, oflags int) (err error) {
	if input != "" {
		if d.in, err = os.OpenFile(input, os.O_RDONLY|iflags, 0); err != nil {
			return fmt.Errorf("failed to open %s: %s", applet.Quote(input), applet.Reason(err))
		}
	}
	skip := d.skip
	if !d.skipBytes {
		skip *= d.ibs
	}
	if skip > 0 {
		if _, err := d.in.Seek(skip, io.SeekCurrent); err != nil {
			if _, err := io.CopyN(io.Discard, d.in, skip); err != nil && err != io.EOF {
				return err
			}
		}
	}
	seek := d.seek
	if !d.seekBytes {
		seek *= d.obs
	}
	if output != "" {
		flags := os.O_WRONLY | os.O_CREATE | oflags
		if d.conv["excl"] {
			flags |= os.O_EXCL
		}
		if d.conv["nocreat"] {
			flags &^= os.O_CREATE
		}
		if !d.conv["notrunc"] && seek == 0 {
			flags |= os.O_TRUNC
		}
		if d.out, err = os.OpenFile(output, flags, 0o666); err != nil {
			return fmt.Errorf("failed to open %s: %s", applet.Quote(output), applet.Reason(err))
		}
		if !d.conv["notrunc"] && seek > 0 {
			if st, err := d.out.Stat(); err == nil && st.Mode().IsRegular() {
				if err := d.out.Truncate(seek); err != nil {
					return fmt.Errorf("failed to truncate to %d bytes in output file %s: %s", seek, applet.Quote(output), applet.Reason(err))
				}
			}
		}
	}
	if seek > 0 {
		if _, err := d.out.Seek(seek, io.SeekCurrent); err != nil {
			return fmt.Errorf("%s: cannot seek: %s", output, applet.Reason(err))
		}
	}
	return nil
}

func (d *dd) run(e *applet.Env) error {
	// Page-aligned by the allocator from this size on, as O_DIRECT wants it.
	buf := make([]byte, max(d.ibs, 32<<10))[:d.ibs]
	var pending []byte
	left := d.count
	next := time.Now().Add(time.Second)
	begun := time.Now()
	for left != 0 {
		want := buf
		if d.countBytes && left > 0 && left < int64(len(buf)) {
			want = buf[:left]
		}
		n, err := d.read(want)
		if err != nil && err != io.EOF {
			if !d.conv["noerror"] {
				return err
			}
			e.Warn(err)
			d.in.Seek(d.ibs, io.SeekCurrent)
			n = 0
			if d.conv["sync"] {
				n = 1 // a block of zeros takes its place
				clear(buf)
			}
		}
		if n == 0 && err == io.EOF {
			break
		}
		if int64(n) == d.ibs {
			d.inFull++
		} else if n > 0 {
			d.inPart++
		}
		if left > 0 {
			if d.countBytes {
				left -= int64(n)
			} else {
				left--
			}
		}
		block := want[:n]
		if d.conv["sync"] && int64(n) < d.ibs {
			clear(buf[n:])
			block = buf
		}
		d.convert(block)
		if d.ibs == d.obs {
			err = d.write(block)
		} else {
			pending = append(pending, block...)
			for err = nil; err == nil && int64(len(pending)) >= d.obs; pending = pending[d.obs:] {
				err = d.write(pending[:d.obs])
			}
		}
		if err != nil {
			return err
		}
		if d.status == "progress" && time.Now().After(next) {
			next = time.Now().Add(time.Second)
			fmt.Fprintf(e.Stderr, "\r%s", rate(d.copied, time.Since(begun)))
		}
	}
	if len(pending) > 0 {
		if err := d.write(pending); err != nil {
			return err
		}
	}
	if d.conv["sparse"] {
		if off, err := d.out.Seek(0, io.SeekCurrent); err == nil {
			if st, err := d.out.Stat(); err == nil && st.Mode().IsRegular() && st.Size() < off {
				return d.out.Truncate(off)
			}
		}
	}
	return nil
}

func (d *dd) read(p []byte) (int, error) {
	if d.fullBlock {
		n, err := io.ReadFull(d.in, p)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		return n, err
	}
	return d.in.Read(p)
}

func (d *dd) convert(p []byte) {
	switch {
	case d.conv["ucase"]:
		copy(p, bytes.ToUpper(p))
	case d.conv["lcase"]:
		copy(p, bytes.ToLower(p))
	}
	if d.conv["swab"] {
		for i := 0; i+1 < len(p); i += 2 {
			p[i], p[i+1] = p[i+1], p[i]
		}
	}
}

func (d *dd) write(p []byte) error {
	var n int
	var err error
	if d.conv["sparse"] && len(bytes.Trim(p, "\x00")) == 0 {
		if _, err = d.out.Seek(int64(len(p)), io.SeekCurrent); err == nil {
			n = len(p)
		}
	} else {
		n, err = d.out.Write(p)
	}
	d.copied += int64(n)
	if int64(n) == d.obs {
		d.outFull++
	} else if n > 0 {
		d.outPart++
	}
	if err != nil {
		return fmt.Errorf("error writing %s: %s", applet.Quote(d.out.Name()), applet.Reason(err))
	}
	return nil
}

func (d *dd) report(e *applet.Env, took time.Duration) {
	if d.status == "none" {
		return
	}
	if d.status == "progress" && d.copied > 0 {
		fmt.Fprintln(e.Stderr)
	}
	fmt.Fprintf(e.Stderr, "%d+%d records in\n%d+%d records out\n", d.inFull, d.inPart, d.outFull, d.outPart)
	if d.status != "noxfer" {
		fmt.Fprintln(e.Stderr, rate(d.copied, took))
	}
}

func rate(n int64, took time.Duration) string {
	s := fmt.Sprintf("%d bytes", n)
	if n == 1 {
		s = "1 byte"
	}
	if n >= 1000 {
		s += " (" + unitText(float64(n), 1000, "B")
		if n >= 1024 {
			s += ", " + unitText(float64(n), 1024, "iB")
		}
		s += ")"
	}
	sec := took.Seconds()
	return fmt.Sprintf("%s copied, %.6g s, %s/s", s, sec, unitText(float64(n)/max(sec, 1e-9), 1000, "B"))
}

// unitText writes n with two significant digits at least, as in 1.0 MB.
func unitText(n, base float64, suffix string) string {
	prefixes := []string{"", "k", "M", "G", "T", "P", "E"}
	if base == 1024 {
		prefixes[1] = "K"
	}
	i := 0
	for n >= base && i < len(prefixes)-1 {
		n /= base
		i++
	}
	switch {
	case i == 0:
		return fmt.Sprintf("%.0f B", n)
	case n < 9.95:
		return fmt.Sprintf("%.1f %s%s", n, prefixes[i], suffix)
	}
	return fmt.Sprintf("%.0f %s%s", n, prefixes[i], suffix)
}
