package boot

import (
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-crypt/x/crypt"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Passwd changes a password in /etc/shadow, or in /etc/passwd where that does
// not refer to it. Without a terminal the new password is one line of
// standard input.
func Passwd(e *applet.Env, args []string) error {
	var remove, lock, unlock bool
	var o applet.Options
	o.Bool(&remove, 'd', "delete")
	o.Bool(&lock, 'l', "lock")
	o.Bool(&unlock, 'u', "unlock")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	db := account.Load()
	name := db.UserName(uint32(os.Getuid()))
	if len(names) == 1 {
		name = names[0]
	} else if len(names) > 1 {
		return applet.Usagef("extra operand %s", applet.Quote(names[1]))
	}
	user, ok := db.User(name)
	if !ok {
		return fmt.Errorf("no user %s", applet.Quote(name))
	}
	if os.Getuid() != 0 && (user.UID != uint32(os.Getuid()) || remove || lock || unlock) {
		return errors.New("only root may do that")
	}
	if os.Geteuid() != 0 {
		return errors.New("must be setuid root to work for others than root")
	}
	old, err := account.Hash(user)
	if err != nil {
		return err
	}
	hash := ""
	switch {
	case remove:
	case lock:
		hash = "!" + strings.TrimPrefix(old, "!")
	case unlock:
		if hash = strings.TrimPrefix(old, "!"); hash == "" {
			return errors.New("unlocking would leave no password; -d does that")
		}
	default:
		if os.Getuid() != 0 {
			if ok, err := checkPassword(e, user, true); err != nil || !ok {
				if err == nil {
					time.Sleep(failDelay)
					err = errors.New("wrong password")
				}
				return err
			}
		}
		password, err := newPassword(e)
		if err != nil {
			return err
		}
		hash = sha512crypt(password)
	}
	if err := storeHash(user, hash); err != nil {
		return err
	}
	e.Stdout.WriteString("passwd: password of " + name + " changed\n")
	return nil
}

func newPassword(e *applet.Env) (string, error) {
	if !applet.IsTerminal(0) {
		line, err := readLine(os.Stdin, 1024)
		if err == nil && line == "" {
			err = errors.New("an empty password is set with -d")
		}
		return line, err
	}
	first, err := askPassword(e, "New password: ")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", errors.New("an empty password is set with -d")
	}
	second, err := askPassword(e, "Retype new password: ")
	if err == nil && first != second {
		err = errors.New("the passwords do not match")
	}
	return first, err
}

func sha512crypt(password string) string {
	const letters = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	salt := make([]byte, 16)
	rand.Read(salt)
	for i := range salt {
		salt[i] = letters[salt[i]&63]
	}
	return "$6$" + string(salt) + "$" + string(crypt.KeySHACrypt(sha512.New, []byte(password), salt, 5000))
}

// storeHash writes the file that holds a user's hash anew beside itself and
// renames it.
func storeHash(user account.User, hash string) error {
	path, field := "/etc/shadow", 1
	if user.Password != "x" {
		path = "/etc/passwd"
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(b), "\n")
	done := false
	for i, line := range lines {
		f := strings.Split(line, ":")
		if f[0] != user.Name || len(f) < 3 {
			continue
		}
		f[field] = hash
		if path == "/etc/shadow" {
			f[2] = strconv.FormatInt(time.Now().Unix()/86400, 10)
		}
		lines[i] = strings.Join(f, ":")
		done = true
		break
	}
	if !done {
		return fmt.Errorf("%s: no entry for %s", path, user.Name)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.WriteString(strings.Join(lines, ""))
	if err == nil {
		err = f.Chown(int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = f.Chmod(os.FileMode(st.Mode & 0o777))
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
