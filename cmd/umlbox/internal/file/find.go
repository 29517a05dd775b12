package file

import (
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// finder is one run of find.
type finder struct {
	e        *applet.Env
	db       account.Database
	now      time.Time
	follow   byte // 'P', 'H' or 'L'
	min, max int  // depth; max -1 is any
	xdev     bool
	post     bool // directories after what they contain
	batches  []*batch
	prune    bool // set by -prune for the file at hand
	quit     bool
	dev      uint64
}

// found is the file that an expression is asked about.
type found struct {
	path  string
	name  string
	start string // the operand it was found below
	depth int
	st    unix.Stat_t
}

// test is a node of the expression.
type test func(*found) bool

// Find walks trees and looks for files.
func Find(e *applet.Env, args []string) error {
	f := &finder{e: e, now: time.Now(), follow: 'P', max: -1, db: account.Load()}
	for len(args) > 0 {
		if args[0] != "-H" && args[0] != "-L" && args[0] != "-P" {
			break
		}
		f.follow = args[0][1]
		args = args[1:]
	}
	var starts []string
	for len(args) > 0 && !expression(args[0]) {
		starts = append(starts, args[0])
		args = args[1:]
	}
	if len(starts) == 0 {
		starts = []string{"."}
	}
	p := &findParser{f: f, args: args}
	want, err := p.parse()
	if err != nil {
		return err
	}
	for _, start := range starts {
		if f.quit {
			break
		}
		f.walk(&found{path: start, name: baseName(start), start: start}, want, true)
	}
	for _, b := range f.batches {
		b.flush()
	}
	return nil
}

func expression(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' || arg == "!" || arg == "(" || arg == ")" || arg == ","
}

func baseName(path string) string {
	t := trimSlashes(path)
	if t == "" {
		return ""
	}
	return t[strings.LastIndexByte(t[:len(t)-1], '/')+1:]
}

func (f *finder) stat(x *found, operand bool) error {
	if f.follow == 'L' || f.follow == 'H' && operand {
		if err := unix.Stat(x.path, &x.st); err == nil || err != unix.ENOENT {
			return err
		}
	}
	return unix.Lstat(x.path, &x.st)
}

func (f *finder) walk(x *found, want test, operand bool) {
	if err := f.stat(x, operand); err != nil {
		f.e.Warnf("%s: %s", applet.Quote(x.path), applet.Reason(err))
		return
	}
	if operand {
		f.dev = uint64(x.st.Dev)
	}
	dir := x.st.Mode&unix.S_IFMT == unix.S_IFDIR
	f.prune = false
	visit := func() {
		if x.depth >= f.min && !f.quit {
			want(x)
		}
	}
	if !f.post {
		visit()
	}
	deeper := dir && !(f.prune && !f.post) && (f.max < 0 || x.depth < f.max) && !(f.xdev && uint64(x.st.Dev) != f.dev)
	if deeper && !f.quit {
		f.below(x, want)
	}
	if f.post {
		visit()
	}
}

func (f *finder) below(x *found, want test) {
	d, err := os.Open(x.path)
	if err != nil {
		f.e.Warnf("%s: %s", applet.Quote(x.path), applet.Reason(err))
		return
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		f.e.Warnf("%s: %s", applet.Quote(x.path), applet.Reason(err))
	}
	for _, name := range names {
		if f.quit {
			return
		}
		f.walk(&found{path: join(x.path, name), name: name, start: x.start, depth: x.depth + 1}, want, false)
	}
}

// findParser turns the words of an expression into a test. Its grammar, from
// the loosest: list (,) or (-o) and (-a or nothing) not (!) primary.
type findParser struct {
	f      *finder
	args   []string
	action bool // an action was named, so -print is not implied
	depth  int  // of parentheses
}

func (p *findParser) peek() string {
	if len(p.args) == 0 {
		return ""
	}
	return p.args[0]
}

func (p *findParser) next() string {
	a := p.args[0]
	p.args = p.args[1:]
	return a
}

func (p *findParser) parse() (test, error) {
	want := func(*found) bool { return true }
	if len(p.args) > 0 {
		var err error
		if want, err = p.list(); err != nil {
			return nil, err
		}
		if len(p.args) > 0 {
			return nil, applet.Usagef("unexpected %s", applet.Quote(p.peek()))
		}
	}
	if !p.action {
		show := p.f.print('\n')
		inner := want
		want = func(x *found) bool { return inner(x) && show(x) }
	}
	return want, nil
}

func (p *findParser) list() (test, error) {
	a, err := p.or()
	for err == nil && p.peek() == "," {
		p.next()
		var b test
		if b, err = p.or(); err != nil {
			break
		}
		first := a
		a = func(x *found) bool { first(x); return b(x) }
	}
	return a, err
}

func (p *findParser) or() (test, error) {
	a, err := p.and()
	for err == nil && (p.peek() == "-o" || p.peek() == "-or") {
		p.next()
		var b test
		if b, err = p.and(); err != nil {
			break
		}
		first := a
		a = func(x *found) bool { return first(x) || b(x) }
	}
	return a, err
}

func (p *findParser) and() (test, error) {
	a, err := p.not()
	for err == nil && len(p.args) > 0 && !slices.Contains([]string{"-o", "-or", ")", ","}, p.peek()) {
		if p.peek() == "-a" || p.peek() == "-and" {
			p.next()
		}
		var b test
		if b, err = p.not(); err != nil {
			break
		}
		first := a
		a = func(x *found) bool { return first(x) && b(x) }
	}
	return a, err
}

// maxParens bounds the nesting of an expression.
const maxParens = 1000

func (p *findParser) not() (test, error) {
	negate := false
	for p.peek() == "!" || p.peek() == "-not" {
		p.next()
		negate = !negate
	}
	if len(p.args) == 0 {
		return nil, applet.Usagef("an expression is missing")
	}
	var t test
	var err error
	if p.peek() == "(" {
		p.next()
		if p.depth++; p.depth > maxParens {
			return nil, applet.Usagef("too many parentheses")
		}
		if t, err = p.list(); err != nil {
			return nil, err
		}
		p.depth--
		if p.peek() != ")" {
			return nil, applet.Usagef("a ')' is missing")
		}
		p.next()
	} else if t, err = p.primary(); err != nil {
		return nil, err
	}
	if negate {
		return func(x *found) bool { return !t(x) }, nil
	}
	return t, nil
}

// value takes the argument of the primary named name.
func (p *findParser) value(name string) (string, error) {
	if len(p.args) == 0 {
		return "", applet.Usagef("missing argument to %s", applet.Quote(name))
	}
	return p.next(), nil
}

func always(*found) bool { return true }

var errNumber = errors.New("not a number")
