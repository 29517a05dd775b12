package boot

import (
	"errors"
	"os"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Su becomes another user. Root is not asked for a password; others get no
// further than setuid root lets this program.
func Su(e *applet.Env, args []string) error {
	var s session
	command := ""
	var o applet.Options
	o.InOrder = true
	o.Bool(&s.login, 'l', "login")
	o.Bool(&s.keep, 'p', "preserve-environment")
	o.Bool(&s.keep, 'm', "")
	o.String(&s.shell, 's', "shell")
	o.String(&command, 'c', "command")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) > 0 && operands[0] == "-" {
		s.login, operands = true, operands[1:]
	}
	name := "root"
	if len(operands) > 0 {
		// Options may follow the name, as in su USER -c COMMAND.
		name = operands[0]
		if s.command, err = o.Parse(operands[1:]); err != nil {
			return err
		}
	}
	if command != "" {
		s.command = append([]string{"-c", command}, s.command...)
	}
	user, err := lookUp(name)
	if err != nil {
		return err
	}
	if os.Getuid() != 0 {
		if os.Geteuid() != 0 {
			return errors.New("must be setuid root to work for others than root")
		}
		ok, err := checkPassword(e, user, true)
		if err != nil {
			return err
		}
		if !ok {
			time.Sleep(failDelay)
			return errors.New("wrong password")
		}
	}
	return become(user, s)
}
