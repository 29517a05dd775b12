package shell

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// The interpreter runs "command &" on a goroutine and tells its exec handler
// nothing of it, and its $! is "g1", "g2", …, not a process. A background
// statement is therefore rewritten, before it runs, to
//
//	{ umlbox-job $!; { ( command ); umlbox-job end; } & unset __umlbox_job; }
//
// where umlbox-job is caught by the call handler: it sets the variable that
// the command inherits and the exec handler reads.
const (
	jobCommand  = "umlbox-job"
	jobVariable = "__umlbox_job"
)

// jobs are the commands a shell runs. Safe for concurrent use.
type jobs struct {
	foreground atomic.Int32 // external commands the shell waits for
	mu         sync.Mutex
	background map[string]*job
}

// job is one background statement.
type job struct {
	started sync.WaitGroup // until it runs a program or is over
	once    sync.Once
	pids    map[int]bool
}

func (j *job) start() { j.once.Do(j.started.Done) }

// begin makes the job that follows the one named last ("" or "gN").
func (js *jobs) begin(last string) string {
	n, _ := strconv.Atoi(strings.TrimPrefix(last, "g"))
	name := "g" + strconv.Itoa(n+1)
	j := &job{pids: map[int]bool{}}
	j.started.Add(1)
	js.mu.Lock()
	defer js.mu.Unlock()
	if js.background == nil {
		js.background = map[string]*job{}
	}
	js.background[name] = j
	return name
}

func (js *jobs) find(name string) *job {
	js.mu.Lock()
	defer js.mu.Unlock()
	return js.background[name]
}

// running notes that a process of the job began or ended.
func (js *jobs) running(name string, pid int, yes bool) {
	j := js.find(name)
	if j == nil {
		return
	}
	js.mu.Lock()
	if yes {
		j.pids[pid] = true
	} else {
		delete(j.pids, pid)
	}
	js.mu.Unlock()
	j.start()
}

// processes replaces a job's name by its processes; other words stay.
func (js *jobs) processes(word string) []string {
	j := js.find(strings.TrimPrefix(word, "-"))
	if j == nil {
		return []string{word}
	}
	j.started.Wait()
	js.mu.Lock()
	defer js.mu.Unlock()
	var out []string
	for pid := range j.pids {
		out = append(out, strconv.Itoa(pid))
	}
	if len(out) == 0 {
		return []string{word} // over; kill says so
	}
	return out
}

// settle waits until every job runs a program or is over: a shell that ends
// must not take a command with it that was not yet started.
func (js *jobs) settle() {
	js.mu.Lock()
	all := make([]*job, 0, len(js.background))
	for _, j := range js.background {
		all = append(all, j)
	}
	js.mu.Unlock()
	for _, j := range all {
		j.started.Wait()
	}
}

// jobCall answers the job command that prepare put into the program.
func (s *Shell) jobCall(ctx context.Context, args []string) []string {
	if len(args) > 1 && args[1] == "end" {
		if j := s.jobs.find(interp.HandlerCtx(ctx).Env.Get(jobVariable).String()); j != nil {
			j.start()
		}
		return []string{"exit", strconv.Itoa(interp.HandlerCtx(ctx).LastExitStatus)}
	}
	last := ""
	if len(args) > 1 {
		last = args[1]
	}
	return []string{"eval", jobVariable + "=" + s.jobs.begin(last)}
}

// prepare rewrites the background statements below node and notes which exec
// commands replace the shell itself: those that no subshell runs.
func (s *Shell) prepare(node syntax.Node) {
	depth := 0 // subshells, functions and the like around the node
	var open []bool
	var behind []*syntax.Stmt
	syntax.Walk(node, func(n syntax.Node) bool {
		if n == nil {
			if open[len(open)-1] {
				depth--
			}
			open = open[:len(open)-1]
			return true
		}
		inner := false
		switch n := n.(type) {
		case *syntax.Stmt:
			if n.Background {
				behind = append(behind, n)
				inner = true
			}
		case *syntax.Subshell, *syntax.CmdSubst, *syntax.ProcSubst, *syntax.FuncDecl, *syntax.CoprocClause:
			inner = true
		case *syntax.BinaryCmd:
			inner = n.Op == syntax.Pipe || n.Op == syntax.PipeAll
		case *syntax.CallExpr:
			if depth == 0 && len(n.Args) > 1 && n.Args[0].Lit() == "exec" {
				s.execs[n.Args[0].Pos().Offset()] = true
			}
		}
		if inner {
			depth++
		}
		open = append(open, inner)
		return true
	})
	for _, st := range behind { // not while walking, which would meet its own work
		background(st)
	}
}

// background rewrites one statement as told above.
func background(st *syntax.Stmt) {
	command := *st
	command.Background = false
	body := *st
	body.Redirs, body.Negated = nil, false
	body.Cmd = &syntax.Block{Stmts: []*syntax.Stmt{
		{Cmd: &syntax.Subshell{Stmts: []*syntax.Stmt{&command}}},
		call(word(jobCommand), word("end")),
	}}
	last := &syntax.Word{Parts: []syntax.WordPart{
		&syntax.ParamExp{Short: true, Param: &syntax.Lit{Value: "!"}},
	}}
	*st = syntax.Stmt{Position: st.Position, Cmd: &syntax.Block{Stmts: []*syntax.Stmt{
		call(word(jobCommand), last),
		&body,
		call(word("unset"), word(jobVariable)),
	}}}
}

func word(s string) *syntax.Word {
	return &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: s}}}
}

func call(args ...*syntax.Word) *syntax.Stmt {
	return &syntax.Stmt{Cmd: &syntax.CallExpr{Args: args}}
}
