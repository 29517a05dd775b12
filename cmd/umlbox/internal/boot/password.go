package boot

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/go-crypt/x/crypt"
	"github.com/go-crypt/x/yescrypt"
)

// maxRounds bounds the work that a hash in a hostile shadow file can ask for.
const maxRounds = 10_000_000

// verify says whether password has the hash, in one of the forms of crypt(5):
// yescrypt ($y$), sha512crypt ($6$), sha256crypt ($5$), md5crypt ($1$). An
// error means that the form is not known, or that the hash is malformed.
func verify(password, hashed string) (bool, error) {
	if strings.HasPrefix(hashed, "$y$") {
		return verifyYescrypt(password, hashed)
	}
	f := strings.Split(hashed, "$")
	if len(f) < 4 || f[0] != "" {
		return false, fmt.Errorf("no known form of hash")
	}
	rounds := 5000
	prefix := "$" + f[1] + "$"
	var digest func() hash.Hash
	switch f[1] {
	case "6":
		digest = sha512.New
	case "5":
		digest = sha256.New
	case "1":
	default:
		return false, fmt.Errorf("hash of unknown form $%s$", f[1])
	}
	if text, ok := strings.CutPrefix(f[2], "rounds="); ok && digest != nil {
		n, err := strconv.Atoi(text)
		if err != nil || len(f) < 5 || n > maxRounds {
			return false, fmt.Errorf("hash with %q", f[2])
		}
		rounds = max(n, 1000)
		prefix += "rounds=" + strconv.Itoa(rounds) + "$"
		f = append(f[:2], f[3:]...)
	}
	salt := f[2]
	var key []byte
	if digest != nil {
		salt = salt[:min(len(salt), 16)]
		key = crypt.KeySHACrypt(digest, []byte(password), []byte(salt), rounds)
	} else {
		salt = salt[:min(len(salt), 8)]
		key = crypt.KeyMD5Crypt([]byte(password), []byte(salt))
	}
	want := prefix + salt + "$" + string(key)
	return subtle.ConstantTimeCompare([]byte(want), []byte(hashed)) == 1, nil
}

func verifyYescrypt(password, hashed string) (bool, error) {
	f := strings.Split(hashed, "$") // "", "y", parameters, salt, key
	if len(f) != 5 {
		return false, fmt.Errorf("malformed yescrypt hash")
	}
	// More than 2^18 blocks of 32 KiB at most is more memory than a guest has.
	if _, ln, r, err := yescrypt.DecodeSetting([]byte(f[2])); err != nil || ln < 1 || ln > 18 || r < 1 || r > 32 {
		return false, fmt.Errorf("yescrypt hash with parameters %q", f[2])
	}
	got, err := yescrypt.Hash([]byte(password), []byte(hashed))
	if err != nil {
		return false, fmt.Errorf("yescrypt: %w", err)
	}
	return subtle.ConstantTimeCompare(got, []byte(hashed)) == 1, nil
}
