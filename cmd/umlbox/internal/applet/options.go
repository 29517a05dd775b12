package applet

import (
	"errors"
	"strconv"
	"strings"
)

// errHelp asks the frame for the usage text.
var errHelp = errors.New("help")

// Options reads a command line the way getopt_long(3) does: "-abc", "-n5",
// "-n 5", "--name=value", "--name value", unambiguous beginnings of long
// names, "--" as the end. The zero value is ready.
type Options struct {
	// InOrder ends the options at the first operand, for commands whose
	// operands are another command.
	InOrder bool
	opts    []option
}

type option struct {
	short byte // 0: none
	long  string
	arg   bool
	set   func(value string) error
}

// Bool declares an option without a value. short may be 0 and long empty.
func (o *Options) Bool(p *bool, short byte, long string) {
	o.Func(short, long, func() { *p = true })
}

// Func declares an option without a value that calls f.
func (o *Options) Func(short byte, long string, f func()) {
	o.opts = append(o.opts, option{short, long, false, func(string) error { f(); return nil }})
}

// String declares an option with a value.
func (o *Options) String(p *string, short byte, long string) {
	o.Value(short, long, func(s string) error { *p = s; return nil })
}

// Int declares an option with a decimal value.
func (o *Options) Int(p *int, short byte, long string) {
	o.Value(short, long, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return Usagef("invalid number %s", Quote(s))
		}
		*p = n
		return nil
	})
}

// Value declares an option whose value f takes.
func (o *Options) Value(short byte, long string, f func(string) error) {
	o.opts = append(o.opts, option{short, long, true, f})
}

// Parse reads args and returns the operands.
func (o *Options) Parse(args []string) ([]string, error) {
	var operands []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case arg == "--":
			return append(operands, args...), nil
		case strings.HasPrefix(arg, "--"):
			args, err = o.long(arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = o.short(arg[1:], args)
		case o.InOrder:
			return append([]string{arg}, args...), nil
		default:
			operands = append(operands, arg)
		}
		if err != nil {
			return nil, err
		}
	}
	return operands, nil
}

// ParseSome is Parse where at least n operands are wanted.
func (o *Options) ParseSome(args []string, n int) ([]string, error) {
	operands, err := o.Parse(args)
	if err == nil && len(operands) < n {
		return nil, Usagef("missing operand")
	}
	return operands, err
}

func (o *Options) short(letters string, args []string) ([]string, error) {
	for i := 0; i < len(letters); i++ {
		opt := o.find(letters[i])
		if opt == nil {
			return nil, Usagef("invalid option -- '%c'", letters[i])
		}
		if !opt.arg {
			if err := opt.set(""); err != nil {
				return nil, err
			}
			continue
		}
		if value := letters[i+1:]; value != "" {
			return args, opt.set(value)
		}
		if len(args) == 0 {
			return nil, Usagef("option requires an argument -- '%c'", letters[i])
		}
		return args[1:], opt.set(args[0])
	}
	return args, nil
}

func (o *Options) long(name string, args []string) ([]string, error) {
	name, value, has := strings.Cut(name, "=")
	if name == "help" {
		return nil, errHelp
	}
	opt, err := o.findLong(name)
	switch {
	case err != nil:
		return nil, err
	case !opt.arg && has:
		return nil, Usagef("option '--%s' doesn't allow an argument", opt.long)
	case !opt.arg || has:
		return args, opt.set(value)
	case len(args) == 0:
		return nil, Usagef("option '--%s' requires an argument", opt.long)
	}
	return args[1:], opt.set(args[0])
}

func (o *Options) find(letter byte) *option {
	for i := range o.opts {
		if o.opts[i].short == letter {
			return &o.opts[i]
		}
	}
	return nil
}

func (o *Options) findLong(name string) (*option, error) {
	var found *option
	for i := range o.opts {
		opt := &o.opts[i]
		if opt.long == "" || !strings.HasPrefix(opt.long, name) {
			continue
		}
		if opt.long == name {
			return opt, nil
		}
		if found != nil {
			return nil, Usagef("option '--%s' is ambiguous", name)
		}
		found = opt
	}
	if found == nil {
		return nil, Usagef("unrecognized option '--%s'", name)
	}
	return found, nil
}

// NumberFlag rewrites the historic "-5" of head and tail, as a first
// argument, to "-n 5".
func NumberFlag(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		return append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	return args
}

// Quote puts s in the single quotes of the coreutils' messages.
func Quote(s string) string { return "'" + s + "'" }

// Size reads a count with the suffixes of dd, head and truncate: b (512), K, M,
// G, T, P (powers of 1024), kB, MB, … (powers of 1000), KiB, ….
func Size(s string) (int64, error) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0, Usagef("invalid number %s", Quote(s))
	}
	unit, suffix := int64(1), s[i:]
	switch suffix {
	case "":
		return n, nil
	case "b":
		unit = 512
	case "c":
	case "w":
		unit = 2
	default:
		power := strings.IndexByte("KMGTPE", suffix[0]&^0x20) + 1
		base := int64(1024)
		switch suffix[1:] {
		case "", "iB":
		case "B":
			base = 1000
		default:
			power = 0
		}
		if power == 0 {
			return 0, Usagef("invalid suffix in number %s", Quote(s))
		}
		for range power {
			unit *= base
		}
	}
	if n > (1<<63-1)/unit {
		return 0, Usagef("number %s is too large", Quote(s))
	}
	return n * unit, nil
}
