package text

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// maxArguments bounds the bytes of one command line.
const maxArguments = 128 << 10

type xargs struct {
	e        *applet.Env
	argv     []string
	trace    bool
	ask      bool
	replace  string
	tty      *bufio.Reader
	slots    chan struct{}
	running  sync.WaitGroup
	mu       sync.Mutex
	status   int
	finished bool // a command said 255, or could not run
}

// Xargs runs a command with arguments from standard input.
func Xargs(e *applet.Env, args []string) error {
	x := &xargs{e: e}
	var null, noEmpty, exit bool
	var input, eof, delimiter string
	perRun, perLine, parallel, size := 0, 0, 1, maxArguments
	var o applet.Options
	o.InOrder = true
	o.Bool(&null, '0', "null")
	o.Bool(&noEmpty, 'r', "no-run-if-empty")
	o.Bool(&x.trace, 't', "verbose")
	o.Bool(&x.ask, 'p', "interactive")
	o.Bool(&exit, 'x', "exit")
	o.Int(&perRun, 'n', "max-args")
	o.Int(&perLine, 'L', "max-lines")
	o.Int(&parallel, 'P', "max-procs")
	o.Int(&size, 's', "max-chars")
	o.String(&x.replace, 'I', "replace")
	o.String(&input, 'a', "arg-file")
	o.String(&eof, 'E', "eof")
	o.String(&delimiter, 'd', "delimiter")
	argv, err := o.Parse(args)
	if err != nil {
		return err
	}
	if x.argv = argv; len(argv) == 0 {
		x.argv = []string{"echo"}
	}
	if parallel <= 0 {
		parallel = 256
	}
	x.slots = make(chan struct{}, parallel)
	if x.ask {
		x.trace = true
		tty, err := os.Open("/dev/tty")
		if err != nil {
			return err
		}
		defer tty.Close()
		x.tty = bufio.NewReader(tty)
	}
	in := e.Stdin
	if input != "" {
		f, err := os.Open(input)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	split := splitter{r: bufio.NewReader(in), end: -1, wholeLines: x.replace != ""}
	if null {
		split.end = 0
	} else if delimiter != "" {
		d, _ := unescape(delimiter, false)
		if len(d) != 1 {
			return applet.Usagef("the delimiter must be a single character")
		}
		split.end = int(d[0])
	}
	if x.replace != "" {
		perRun = 1
	}
	base := 0 // the command itself counts
	for _, a := range x.argv {
		base += len(a) + 1
	}
	var batch []string
	bytes, lines, ran := base, 0, false
	for !x.stopped() {
		word, line, err := split.next()
		if err == io.EOF || err == nil && eof != "" && word == eof {
			break
		}
		if err != nil {
			x.running.Wait()
			return err
		}
		if len(batch) > 0 && bytes+len(word)+1 > size {
			if exit && (perRun > 0 || perLine > 0) {
				x.running.Wait()
				return errors.New("argument list too long")
			}
			x.run(batch)
			batch, bytes, lines, ran = nil, base, 0, true
		}
		batch = append(batch, word)
		bytes += len(word) + 1
		if line {
			lines++
		}
		if perRun > 0 && len(batch) >= perRun || perLine > 0 && lines >= perLine {
			x.run(batch)
			batch, bytes, lines, ran = nil, base, 0, true
		}
	}
	if len(batch) > 0 || !ran && !noEmpty && x.replace == "" {
		x.run(batch)
	}
	x.running.Wait()
	if x.status != 0 {
		return applet.Status(x.status)
	}
	return nil
}

func (x *xargs) stopped() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.finished
}

// run starts the command with some arguments, and waits when as many run as may.
func (x *xargs) run(words []string) {
	argv := append(append([]string{}, x.argv...), words...)
	if x.replace != "" {
		argv = append([]string{}, x.argv...)
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], x.replace, words[0])
		}
	}
	if x.trace {
		end := "\n"
		if x.ask {
			end = "?..."
		}
		fmt.Fprint(x.e.Stderr, strings.Join(argv, " ")+end)
	}
	if x.ask {
		answer, _ := x.tty.ReadString('\n')
		if !strings.HasPrefix(answer, "y") && !strings.HasPrefix(answer, "Y") {
			return
		}
	}
	x.slots <- struct{}{}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, x.e.Stderr // its input is the null device
	finish := func(err error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		var exit *exec.ExitError
		switch {
		case err == nil:
		case !errors.As(err, &exit):
			x.status, x.finished = 126, true
			if errors.Is(err, exec.ErrNotFound) || errors.Is(err, unix.ENOENT) {
				x.status = 127
				err = unix.ENOENT
			}
			fmt.Fprintf(x.e.Stderr, "xargs: %s: %s\n", argv[0], applet.Reason(err))
		case exit.ExitCode() == 255:
			x.status, x.finished = 124, true
			fmt.Fprintf(x.e.Stderr, "xargs: %s: exited with status 255; aborting\n", argv[0])
		case exit.ExitCode() < 0:
			x.status, x.finished = 125, true
		case x.status == 0:
			x.status = 123
		}
	}
	if cap(x.slots) == 1 {
		finish(cmd.Run())
		<-x.slots
		return
	}
	x.running.Go(func() {
		finish(cmd.Run())
		<-x.slots
	})
}

// splitter cuts the input into words.
type splitter struct {
	r          *bufio.Reader
	end        int // a delimiter, or -1: blanks and newlines, with quotes
	wholeLines bool
}

// next returns a word, and whether it ended a line.
func (s *splitter) next() (word string, line bool, err error) {
	if s.end >= 0 {
		text, err := s.r.ReadString(byte(s.end))
		if err != nil && (err != io.EOF || text == "") {
			return "", false, err
		}
		return strings.TrimSuffix(text, string(rune(s.end))), true, nil
	}
	var b strings.Builder
	any := false
	quote := byte(0)
	for {
		c, err := s.r.ReadByte()
		if err == io.EOF && any && quote == 0 {
			return b.String(), true, nil
		}
		if err == io.EOF && quote != 0 {
			return "", false, fmt.Errorf("unmatched %s quote", map[byte]string{'\'': "single", '"': "double"}[quote])
		}
		if err != nil {
			return "", false, err
		}
		if b.Len() > maxArguments {
			return "", false, errors.New("argument line too long")
		}
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0 && c == '\n':
			return "", false, fmt.Errorf("unmatched %s quote", map[byte]string{'\'': "single", '"': "double"}[quote])
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			quote, any = c, true
		case c == '\\':
			if c, err = s.r.ReadByte(); err == nil {
				b.WriteByte(c)
				any = true
			}
		case c == '\n' && any:
			return b.String(), true, nil
		case (c == ' ' || c == '\t') && any && !s.wholeLines:
			return b.String(), s.lineEnds(), nil
		case c == '\n' || (c == ' ' || c == '\t') && !any:
		default:
			b.WriteByte(c)
			any = true
		}
	}
}

// lineEnds says whether nothing but blanks is left of this line; it takes them.
func (s *splitter) lineEnds() bool {
	for {
		c, err := s.r.ReadByte()
		switch {
		case err != nil || c == '\n':
			return true
		case c != ' ' && c != '\t':
			s.r.UnreadByte()
			return false
		}
	}
}
