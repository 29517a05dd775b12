package settings

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-crypt/x/crypt"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// RootPassword is the password by which root logs in. It is kept as its hash, in
// /etc/shadow where there is one and else in /etc/passwd.
type RootPassword struct {
	// Password may be empty: then root logs in without one.
	Password string

	// Changed is the day that shadow notes as the day of the change.
	Changed time.Time

	// Seed, where set, makes the salt a function of it, for images that must not
	// differ. It must tell nothing of the password.
	Seed []byte
}

func (RootPassword) String() string { return "root password" }

// Apply implements Setting.
func (p RootPassword) Apply(t *tree.Tree) error {
	if strings.ContainsAny(p.Password, "\x00\n\r") {
		return errors.New("a password is one line without NUL")
	}
	hash := ""
	if p.Password != "" {
		hash = Hash(p.Password, salt(p.Seed))
	}
	passwd, err := read(t, "/etc/passwd")
	if err != nil {
		return err
	}
	if passwd == nil {
		return errors.New("/etc/passwd is missing: there is no root to give a password to")
	}
	if !t.Exists("/etc/shadow") {
		return edit(t, "/etc/passwd", 0o644, func(old []byte) ([]byte, error) { return setPasswd(old, hash) })
	}
	err = edit(t, "/etc/passwd", 0o644, func(old []byte) ([]byte, error) { return setPasswd(old, "x") })
	if err != nil {
		return err
	}
	return edit(t, "/etc/shadow", 0o640, func(old []byte) ([]byte, error) { return setShadow(old, hash, p.Changed), nil })
}

// setPasswd sets the password field of root in a passwd file.
func setPasswd(old []byte, field string) ([]byte, error) {
	all := lines(old)
	i := slices.IndexFunc(all, isRoot)
	if i < 0 {
		return nil, errors.New("no line for root")
	}
	fields := strings.Split(all[i], ":")
	if len(fields) != 7 {
		return nil, fmt.Errorf("line %d: root has %d fields, not 7", i+1, len(fields))
	}
	fields[1] = field
	all[i] = strings.Join(fields, ":")
	return join(all), nil
}

// setShadow sets root's password in a shadow file, and the day of its change; a lock
// and an expiry date of the account go. Root gets a line where it has none.
func setShadow(old []byte, hash string, changed time.Time) []byte {
	all := lines(old)
	day := strconv.FormatInt(max(changed.Unix(), 86400)/86400, 10)
	i := slices.IndexFunc(all, isRoot)
	if i < 0 {
		return join(slices.Insert(all, 0, "root:"+hash+":"+day+":0:99999:7:::"))
	}
	fields := strings.Split(all[i], ":")
	for len(fields) < 9 {
		fields = append(fields, "")
	}
	fields[1], fields[2], fields[7] = hash, day, ""
	all[i] = strings.Join(fields, ":")
	return join(all)
}

func isRoot(line string) bool { return strings.HasPrefix(line, "root:") }

// cryptAlphabet are the characters of salts and hashes of crypt(3).
const cryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// salt is 16 characters, random or made from a seed.
func salt(seed []byte) string {
	var raw [16]byte
	if seed == nil {
		rand.Read(raw[:]) // never fails: crypto/rand ends the program instead
	} else {
		sum := sha256.Sum256(append([]byte("umlkit password salt\x00"), seed...))
		copy(raw[:], sum[:])
	}
	for i, b := range raw {
		raw[i] = cryptAlphabet[b&63]
	}
	return string(raw[:])
}

// Hash is a password in the form of crypt(3)'s sha512crypt, with the 5000 rounds that
// all know who read it: every libc's crypt and busybox. (Yescrypt is stronger, but
// guests from before 2020 cannot log in by it.)
func Hash(password, salt string) string {
	return "$6$" + salt + "$" + string(crypt.KeySHACrypt(sha512.New, []byte(password), []byte(salt), 5000))
}

// Seed joins what makes an image what it is, for RootPassword.Seed.
func Seed(uuid [16]byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(slices.Clone(uuid[:]), uint64(t.Unix()))
}
