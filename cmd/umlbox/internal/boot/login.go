package boot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	loginTries    = 3
	loginPatience = 60 * time.Second // for a name and a password
	failDelay     = 3 * time.Second
)

// Login checks who is there and gives them their shell.
func Login(e *applet.Env, args []string) error {
	var trusted, keep bool
	var o applet.Options
	o.Bool(&trusted, 'f', "")
	o.Bool(&keep, 'p', "")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) > 1 {
		return applet.Usagef("unexpected operand %s", applet.Quote(operands[1]))
	}
	if os.Geteuid() != 0 {
		return errors.New("only root may start it")
	}
	if !applet.IsTerminal(0) {
		return errors.New("standard input is not a terminal")
	}
	name := ""
	if len(operands) == 1 {
		name = operands[0]
	}
	var user account.User
	if trusted {
		if user, err = lookUp(name); err != nil {
			return err
		}
	} else if user, err = authenticate(e, name); err != nil {
		return err
	}
	if b, err := os.ReadFile("/etc/nologin"); err == nil && user.UID != 0 {
		e.Stdout.Write(b)
		return applet.Status(1)
	}
	if err := os.Chown(ttyName(), int(user.UID), int(user.GID)); err == nil {
		os.Chmod(ttyName(), 0o600)
	}
	if motd, err := os.Open("/etc/motd"); err == nil {
		io.Copy(e.Stdout, motd)
		motd.Close()
	}
	e.Stdout.Flush()
	return become(user, session{login: true, keep: keep})
}

func ttyName() string {
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		return "/dev/tty"
	}
	return name
}

// lookUp finds a user. A guest without /etc/passwd still has root.
func lookUp(name string) (account.User, error) {
	db := account.Load()
	if u, ok := db.User(name); ok {
		return u, nil
	}
	if name == "root" && len(db.Users) == 0 {
		return account.User{Name: "root", Home: "/", Shell: "/bin/sh"}, nil
	}
	return account.User{}, fmt.Errorf("no user %s", applet.Quote(name))
}

// authenticate asks for a name, unless there is one, and its password.
func authenticate(e *applet.Env, name string) (account.User, error) {
	// Whoever says nothing makes room: getty begins again.
	state, _ := term.GetState(0)
	timeout := time.AfterFunc(loginPatience, func() {
		if state != nil {
			term.Restore(0, state) // it may not echo just now
		}
		fmt.Fprintf(os.Stdout, "\r\nlogin: timed out after %v\r\n", loginPatience)
		os.Exit(1)
	})
	defer timeout.Stop()
	for try := range loginTries {
		if name == "" {
			host, _ := os.Hostname()
			fmt.Fprintf(e.Stdout, "%s login: ", host)
			e.Stdout.Flush()
			line, err := readLine(os.Stdin, maxName)
			if err != nil {
				return account.User{}, err
			}
			if name = strings.TrimSpace(line); name == "" {
				continue
			}
		}
		user, known := lookUp(name)
		ok, err := checkPassword(e, user, known == nil)
		if err != nil {
			return account.User{}, err
		}
		if ok {
			return user, nil
		}
		time.Sleep(failDelay)
		fmt.Fprintln(e.Stdout, "Login incorrect")
		if try < loginTries-1 {
			fmt.Fprintln(e.Stdout)
		}
		name = ""
	}
	return account.User{}, applet.Status(1)
}

// checkPassword asks for a user's password, and for that of an unknown user
// as well.
func checkPassword(e *applet.Env, user account.User, known bool) (bool, error) {
	hashed := "*"
	if known {
		var err error
		if hashed, err = account.Hash(user); err != nil {
			e.Warn(err)
			hashed = "*"
		}
	}
	if known && hashed == "" {
		return true, nil
	}
	password, err := askPassword(e, "Password: ")
	if err != nil {
		return false, err
	}
	if !known || strings.HasPrefix(hashed, "*") || strings.HasPrefix(hashed, "!") {
		return false, nil
	}
	ok, err := verify(password, hashed)
	if err != nil {
		e.Warnf("%s: %v", user.Name, err)
	}
	return ok, nil
}

func askPassword(e *applet.Env, prompt string) (string, error) {
	e.Stdout.WriteString(prompt)
	e.Stdout.Flush()
	b, err := term.ReadPassword(0)
	e.Stdout.WriteString("\n")
	e.Stdout.Flush()
	if errors.Is(err, io.EOF) {
		return "", errors.New("no password was given")
	}
	return string(b), err
}

// session is how a user's shell is started.
type session struct {
	login   bool   // as at a login: own environment, home directory, profile
	keep    bool   // the environment all the same
	shell   string // in place of the user's own
	command []string
}

// become turns this process into the user's shell.
func become(u account.User, s session) error {
	db := account.Load()
	var groups []int
	for _, g := range db.GroupIDs(u) {
		groups = append(groups, int(g))
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("groups of %s: %s", u.Name, applet.Reason(err))
	}
	if err := syscall.Setgid(int(u.GID)); err != nil {
		return fmt.Errorf("group %d: %s", u.GID, applet.Reason(err))
	}
	if err := syscall.Setuid(int(u.UID)); err != nil {
		return fmt.Errorf("user %d: %s", u.UID, applet.Reason(err))
	}
	shell := u.Shell
	if s.shell != "" {
		shell = s.shell
	}
	if shell == "" {
		shell = "/bin/sh"
	}
	if s.login && !s.keep {
		kind := os.Getenv("TERM")
		os.Clearenv()
		os.Setenv("TERM", kind)
		os.Setenv("PATH", defaultPath)
	}
	os.Setenv("HOME", u.Home)
	os.Setenv("SHELL", shell)
	os.Setenv("USER", u.Name)
	os.Setenv("LOGNAME", u.Name)
	argv := []string{filepath.Base(shell)}
	if s.login {
		argv[0] = "-" + argv[0]
		if err := os.Chdir(u.Home); err != nil {
			fmt.Fprintf(os.Stderr, "%s; the directory is /\n", applet.Message(err))
			os.Chdir("/")
		}
	}
	err := unix.Exec(shell, append(argv, s.command...), os.Environ())
	if errors.Is(err, fs.ErrNotExist) && u.UID == 0 && s.shell == "" {
		// Root gets in even when its shell is not installed.
		argv[0] = "-sh"
		err = unix.Exec(self, append(argv, s.command...), os.Environ())
	}
	return fmt.Errorf("%s: %s", shell, applet.Reason(err))
}
