package text

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Whatever the expression, it is refused or it compiles.
func FuzzRegexp(f *testing.F) {
	for _, s := range []string{`a*b`, `\(a\|b\)\{2,3\}`, `[[:alpha:]]`, `^*x$`, `[]a]`, `a{,2}`, `(a|b)+?`, `\<w\>`, `[^\]]`, "\xff", `[a-`, `x{1001}`, `[[.-.]]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		for _, syntax := range []byte("GEF") {
			re, err := compile([]string{expr}, syntax, false, false, false)
			if err == nil {
				re.MatchString("some text")
			}
			if err != nil && syntax == 'F' && regexp.QuoteMeta(expr) != "" && strings.ToValidUTF8(expr, "") == expr {
				t.Errorf("the fixed string %q is refused: %v", expr, err)
			}
		}
	})
}

// Whatever the program, sed ends without a crash, and soon.
func FuzzSed(f *testing.F) {
	for _, s := range []string{"s/a/b/g", "1,/x/d", "$!N;P;D", "/a/{s//b/;t}", "y/ab/cd/", "1~2p;2,~3d", "a\\\ntext", ":l;s/a/b/;tl", "0,/a/p", "s/\\(.\\)/\\1\\U&/2w /dev/null", "}", "{{{", "s|x|\\n|M", "l 1", "c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, program string) {
		if strings.ContainsAny(program, "rwWb:tT") {
			return // it could name files, and loop for ever rightly
		}
		var out, errs bytes.Buffer
		e := &applet.Env{Name: "sed", Stdin: strings.NewReader("one\ntwo a\nthree b\n"), Stdout: applet.NewWriter(&out), Stderr: &errs}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Sed(e, []string{"-e", program})
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q does not end", program)
		}
	})
}

func FuzzTr(f *testing.F) {
	f.Add("a-z", "[A*]")
	f.Add("[:alpha:]", "\\0")
	f.Add("[x*0777777777]", "\\")
	f.Fuzz(func(t *testing.T, one, two string) {
		e := &applet.Env{Name: "tr", Stdin: strings.NewReader("some text"), Stdout: applet.NewWriter(io.Discard), Stderr: io.Discard}
		Tr(e, []string{"--", one, two})
	})
}
