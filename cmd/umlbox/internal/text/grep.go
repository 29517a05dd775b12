package text

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

type grep struct {
	e        *applet.Env
	re       *regexp.Regexp
	invert   bool
	count    bool
	files    byte // 'l' names of files that match, 'L' of those that do not
	number   bool
	only     bool
	quiet    bool
	silent   bool
	names    bool
	null     bool
	text     bool
	max      int
	before   int
	after    int
	matched  bool
	shown    bool // a line was: groups of lines are set apart
	end      byte
	includes []string
	excludes []string
}

// Grep finds lines. egrep and fgrep are grep -E and -F.
func Grep(e *applet.Env, args []string) error {
	g := &grep{e: e, max: -1, end: '\n'}
	syntax := byte('G')
	switch e.Name {
	case "egrep":
		syntax = 'E'
	case "fgrep":
		syntax = 'F'
	}
	var patterns []string
	var fold, word, whole, recursive, noName, withName bool
	context := -1
	var o applet.Options
	o.Func('E', "extended-regexp", func() { syntax = 'E' })
	o.Func('F', "fixed-strings", func() { syntax = 'F' })
	o.Func('G', "basic-regexp", func() { syntax = 'G' })
	o.Value('e', "regexp", func(s string) error { patterns = append(patterns, strings.Split(s, "\n")...); return nil })
	o.Value('f', "file", func(s string) error {
		b, err := os.ReadFile(s)
		if err == nil && len(b) > 0 {
			patterns = append(patterns, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")...)
		} else if err == nil && patterns == nil {
			patterns = []string{}
		}
		return err
	})
	o.Bool(&fold, 'i', "ignore-case")
	o.Bool(&fold, 'y', "")
	o.Bool(&g.invert, 'v', "invert-match")
	o.Bool(&word, 'w', "word-regexp")
	o.Bool(&whole, 'x', "line-regexp")
	o.Bool(&g.count, 'c', "count")
	o.Func('l', "files-with-matches", func() { g.files = 'l' })
	o.Func('L', "files-without-match", func() { g.files = 'L' })
	o.Bool(&g.number, 'n', "line-number")
	o.Bool(&g.only, 'o', "only-matching")
	o.Bool(&g.quiet, 'q', "quiet")
	o.Bool(&g.silent, 's', "no-messages")
	o.Bool(&noName, 'h', "no-filename")
	o.Bool(&withName, 'H', "with-filename")
	o.Bool(&g.null, 'Z', "null")
	o.Bool(&g.text, 'a', "text")
	o.Bool(&recursive, 'r', "recursive")
	o.Bool(&recursive, 'R', "dereference-recursive")
	o.Int(&g.max, 'm', "max-count")
	o.Int(&g.before, 'B', "before-context")
	o.Int(&g.after, 'A', "after-context")
	o.Int(&context, 'C', "context")
	o.Func('z', "null-data", func() { g.end = 0 })
	o.Value(0, "include", func(s string) error { g.includes = append(g.includes, s); return nil })
	o.Value(0, "exclude", func(s string) error { g.excludes = append(g.excludes, s); return nil })
	operands, err := o.Parse(contextFlag(args))
	if err != nil {
		return err
	}
	if patterns == nil {
		if len(operands) == 0 {
			return applet.Usagef("missing pattern")
		}
		patterns, operands = strings.Split(operands[0], "\n"), operands[1:]
	}
	if context >= 0 {
		g.before, g.after = context, context
	}
	if g.re, err = compile(patterns, syntax, fold, word, whole); err != nil {
		return err
	}
	g.names = (len(operands) > 1 || recursive || withName) && !noName
	if recursive {
		if len(operands) == 0 {
			operands = []string{"."}
		}
		g.trees(operands)
	} else {
		g.each(operands)
	}
	switch {
	case g.matched && (g.quiet || !e.Failed()):
		e.Stdout.Flush()
		return applet.Status(0)
	case e.Failed():
		return applet.Status(2)
	}
	return applet.Status(1)
}

// contextFlag rewrites -NUM to -C NUM.
func contextFlag(args []string) []string {
	for i, a := range args {
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "0123456789") == "" && (i == 0 || !takesNumber(args[i-1])) {
			return append(append(append([]string{}, args[:i]...), "-C", a[1:]), args[i+1:]...)
		}
	}
	return args
}

// takesNumber says whether arg is an option whose value may come next.
func takesNumber(arg string) bool {
	return len(arg) == 2 && arg[0] == '-' && strings.IndexByte("ABCmef", arg[1]) >= 0
}

// compile makes one expression of all patterns.
func compile(patterns []string, syntax byte, fold, word, whole bool) (*regexp.Regexp, error) {
	var alternatives []string
	for _, p := range patterns {
		var err error
		switch syntax {
		case 'F':
			p = regexp.QuoteMeta(p)
		case 'G':
			p, err = basicRegexp(p)
		default:
			p, err = extendedRegexp(p)
		}
		if err != nil {
			return nil, err
		}
		alternatives = append(alternatives, "(?:"+p+")")
	}
	expr := strings.Join(alternatives, "|")
	if len(alternatives) == 0 {
		expr = `[^\x00-\x{10FFFF}]` // no pattern matches nothing
	}
	if word {
		expr = `\b(?:` + strings.Join(alternatives, "|") + `)\b`
	}
	if whole {
		expr = `^(?:` + expr + `)$`
	}
	flags := ""
	if fold {
		flags = "(?i)"
	}
	re, err := regexp.Compile(flags + expr)
	if err != nil {
		return nil, fmt.Errorf("invalid regular expression: %v", err)
	}
	re.Longest() // as POSIX has it
	return re, nil
}

func (g *grep) each(operands []string) {
	if len(operands) == 0 {
		operands = []string{"-"}
	}
	for _, name := range operands {
		g.one(name)
		if g.quiet && g.matched {
			return
		}
	}
}

// one searches a file; it reports what fails, unless -s forbids it.
func (g *grep) one(name string) {
	if name == "-" {
		g.warn(g.search("(standard input)", g.e.Stdin))
		return
	}
	f, err := os.Open(name)
	if err != nil {
		g.warn(err)
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		g.warn(fmt.Errorf("%s: Is a directory", name))
		return
	}
	g.warn(g.search(name, f))
}

func (g *grep) warn(err error) {
	if err != nil && g.silent {
		g.e.Fail()
		return
	}
	g.e.Warn(err)
}

func (g *grep) trees(operands []string) {
	for _, op := range operands {
		err := filepath.WalkDir(op, func(path string, ent fs.DirEntry, err error) error {
			if err != nil {
				g.warn(err)
				return nil
			}
			if !ent.Type().IsRegular() && path != op || ent.IsDir() || !g.wanted(ent.Name()) {
				return nil
			}
			g.one(path)
			if g.quiet && g.matched {
				return filepath.SkipAll
			}
			return nil
		})
		g.warn(err)
	}
}

func (g *grep) wanted(name string) bool {
	match := func(globs []string) bool {
		for _, glob := range globs {
			if ok, _ := filepath.Match(glob, name); ok {
				return true
			}
		}
		return false
	}
	return (len(g.includes) == 0 || match(g.includes)) && !match(g.excludes)
}

// held is a line kept for the context before a match.
type held struct {
	n    int
	text []byte
}

func (g *grep) search(name string, r io.Reader) error {
	var before []held
	n, hits, after, last := 0, 0, 0, 0
	binary := false
	err := lines(r, g.end, func(line []byte, ended bool) bool {
		n++
		if !binary && !g.text && g.end != 0 && bytes.IndexByte(line, 0) >= 0 {
			binary = true
		}
		match := g.re.Match(line) != g.invert
		if !match {
			switch {
			case g.count || g.files != 0 || g.quiet:
			case after > 0:
				after--
				g.line(name, n, '-', line, &last)
			case g.before > 0:
				if len(before) == g.before {
					before = before[1:]
				}
				before = append(before, held{n, bytes.Clone(line)})
			}
			return after > 0 || g.max < 0 || hits < g.max
		}
		if g.max >= 0 && hits >= g.max {
			return false
		}
		hits++
		if g.files != 'L' {
			g.matched = true
		}
		switch {
		case g.quiet || g.files != 0:
			return false
		case g.count:
			return g.max < 0 || hits < g.max
		case binary:
			return false
		}
		for _, h := range before {
			g.line(name, h.n, '-', h.text, &last)
		}
		before = before[:0]
		g.line(name, n, ':', line, &last)
		after = g.after
		return after > 0 || g.max < 0 || hits < g.max
	})
	switch {
	case g.quiet:
	case g.files != 0:
		if (hits > 0) == (g.files == 'l') {
			g.matched = true
			end := "\n"
			if g.null {
				end = "\x00"
			}
			g.e.Stdout.WriteString(name + end)
		}
	case g.count:
		if g.names {
			g.e.Stdout.WriteString(name + ":")
		}
		g.e.Stdout.WriteString(strconv.Itoa(hits) + "\n")
	case binary && hits > 0:
		g.e.Stdout.Flush()
		fmt.Fprintf(g.e.Stderr, "grep: %s: binary file matches\n", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %s", name, applet.Reason(err))
	}
	return nil
}

// line shows a line that matches (':') or stands near one that does ('-').
func (g *grep) line(name string, n int, mark byte, line []byte, last *int) {
	w := g.e.Stdout
	if (g.before > 0 || g.after > 0) && g.shown && (*last == 0 || n > *last+1) {
		w.WriteString("--\n")
	}
	*last, g.shown = n, true
	prefix := ""
	if g.names {
		if g.null {
			prefix = name + "\x00"
		} else {
			prefix = name + string(mark)
		}
	}
	if g.number {
		prefix += strconv.Itoa(n) + string(mark)
	}
	if !g.only {
		w.WriteString(prefix)
		w.Write(line)
		w.WriteByte(g.end)
		return
	}
	if mark == '-' || g.invert {
		return
	}
	for _, m := range g.re.FindAllIndex(line, -1) {
		if m[1] > m[0] {
			w.WriteString(prefix)
			w.Write(line[m[0]:m[1]])
			w.WriteByte(g.end)
		}
	}
}
