package text

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
)

// Sum writes or checks the digests of files; its name tells which: md5sum,
// sha1sum, sha224sum, sha256sum, sha384sum, sha512sum.
func Sum(e *applet.Env, args []string) error {
	digest := map[string]func() hash.Hash{
		"md5sum": md5.New, "sha1sum": sha1.New, "sha224sum": sha256.New224, "sha256sum": sha256.New,
		"sha384sum": sha512.New384, "sha512sum": sha512.New,
	}[e.Name]
	var check, quiet, status, binary bool
	var o applet.Options
	o.Bool(&check, 'c', "check")
	o.Bool(&quiet, 0, "quiet")
	o.Bool(&status, 0, "status")
	o.Bool(&binary, 'b', "binary")
	o.Func('t', "text", func() { binary = false })
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if check {
		return checkSums(e, files, digest, quiet, status)
	}
	mark := " "
	if binary {
		mark = "*"
	}
	return file.EachNamed(e, files, func(name string, r io.Reader) error {
		h := digest()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		fmt.Fprintf(e.Stdout, "%x %s%s\n", h.Sum(nil), mark, name)
		return nil
	})
}

func checkSums(e *applet.Env, files []string, digest func() hash.Hash, quiet, status bool) error {
	bad, missing, malformed, good := 0, 0, 0, 0
	err := file.EachInput(e, files, func(r io.Reader) error {
		return lines(r, '\n', func(line []byte, _ bool) bool {
			sum, name, ok := strings.Cut(string(line), " ")
			want, err := hex.DecodeString(sum)
			if !ok || err != nil || len(want) != digest().Size() || len(name) < 2 || name[0] != ' ' && name[0] != '*' {
				malformed++
				return true
			}
			name = name[1:]
			f, err := os.Open(name)
			result := "OK"
			if err == nil {
				h := digest()
				_, err = io.Copy(h, f)
				f.Close()
				if string(h.Sum(nil)) != string(want) {
					result = "FAILED"
				}
			}
			switch {
			case err != nil:
				e.Warn(err)
				missing++
				result = "FAILED open or read"
			case result == "OK":
				good++
			default:
				bad++
			}
			if !status && (result != "OK" || !quiet) {
				fmt.Fprintf(e.Stdout, "%s: %s\n", name, result)
			}
			return true
		})
	})
	if err != nil {
		return err
	}
	e.Stdout.Flush()
	plural := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprint(n) + " " + many
	}
	say := func(n int, one, many string) {
		if n > 0 {
			if !status {
				fmt.Fprintf(e.Stderr, "%s: WARNING: %s\n", e.Name, plural(n, one, many))
			}
		}
	}
	if good+bad+missing == 0 {
		return fmt.Errorf("no properly formatted checksum lines found")
	}
	say(malformed, "line is improperly formatted", "lines are improperly formatted")
	say(missing, "listed file could not be read", "listed files could not be read")
	say(bad, "computed checksum did NOT match", "computed checksums did NOT match")
	if bad+missing > 0 {
		e.Fail()
	}
	return nil
}
