package debian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// sum is what a file must be.
type sum struct {
	size   int64
	sha256 string // in hex
}

// release is what a suite's Release file says.
type release struct {
	suite, codename string
	until           time.Time // zero: for ever
	architectures   []string
	components      []string
	files           map[string]sum
}

// keyringMax bounds a keyring, in bytes.
const keyringMax = 16 << 20

// readKeyring reads keys, armoured or not.
func readKeyring(path string) (openpgp.EntityList, error) {
	data, err := readFile(path, keyringMax)
	if err != nil {
		return nil, err
	}
	var keys openpgp.EntityList
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN PGP")) {
		keys, err = openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	} else {
		keys, err = openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// readFile is a file of this machine, of at most some bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path, most)
}

// verifyInline takes what is signed out of an InRelease file, when one of the keys signed
// it. What stands around the signed part is nobody's word.
func verifyInline(data []byte, keys openpgp.EntityList, now time.Time) ([]byte, error) {
	block, _ := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("it is not signed")
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	if _, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, config); err != nil {
		return nil, fmt.Errorf("its signature: %w", err)
	}
	return block.Plaintext, nil
}

// verifyDetached says whether one of the keys made the signature of a Release file.
func verifyDetached(data, signature []byte, keys openpgp.EntityList, now time.Time) error {
	config := &packet.Config{Time: func() time.Time { return now }}
	if _, err := openpgp.CheckArmoredDetachedSignature(keys, bytes.NewReader(data), bytes.NewReader(signature), config); err != nil {
		return fmt.Errorf("its signature: %w", err)
	}
	return nil
}

// parseRelease reads a Release file of which the signature was checked.
func parseRelease(data []byte) (*release, error) {
	var p paragraph
	_ = eachParagraph(string(data), func(q paragraph) error { // of one that ends early the first counts
		if p == "" {
			p = q
		}
		return nil
	})
	r := &release{
		suite: p.field("Suite"), codename: p.field("Codename"),
		architectures: strings.Fields(p.field("Architectures")), components: strings.Fields(p.field("Components")),
		files: make(map[string]sum),
	}
	if text := p.field("Valid-Until"); text != "" {
		until, err := releaseTime(text)
		if err != nil {
			return nil, fmt.Errorf("Valid-Until: %w", err)
		}
		r.until = until
	}
	for line := range strings.Lines(p.field("SHA256")) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || len(f[0]) != 64 || strings.Trim(f[0], "0123456789abcdef") != "" {
			return nil, fmt.Errorf("SHA256: line %.200q", line)
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("SHA256: size %.40q", f[1])
		}
		r.files[f[2]] = sum{size, f[0]}
	}
	if len(r.files) == 0 {
		return nil, errors.New("it has no SHA256 of any file")
	}
	return r, nil
}

// releaseTime reads the times of Release files, which say UTC.
func releaseTime(text string) (time.Time, error) {
	t, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", text)
	if err != nil {
		return t, fmt.Errorf("%.80q is no time", text)
	}
	return t, nil
}

// check holds a release against what was asked for.
func (r *release) check(suite, arch string, components []string, now time.Time) error {
	if r.suite != suite && r.codename != suite {
		return fmt.Errorf("it is of %.40q (%.40q), not of %s", r.codename, r.suite, suite)
	}
	if !r.until.IsZero() && now.After(r.until) {
		return fmt.Errorf("it was valid until %s", r.until.Format(time.RFC1123))
	}
	if !contains(r.architectures, arch) {
		return fmt.Errorf("it has no packages for %s; there is %.200s", arch, strings.Join(r.architectures, ", "))
	}
	for _, c := range components {
		if !contains(r.components, c) {
			return fmt.Errorf("it has no component %s; there is %.200s", c, strings.Join(r.components, ", "))
		}
	}
	return nil
}

// contains says whether a list of words has one. Components of some archives are
// written with a directory before them ("updates/main").
func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word || strings.HasSuffix(w, "/"+word) {
			return true
		}
	}
	return false
}
