package system

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// process is what /proc says of one process.
type process struct {
	pid, ppid, pgid, sid, ttyNr int
	uid                         uint32
	state                       string
	comm                        string
	args                        []string
	ticks                       int64 // of processor time
	started                     int64 // ticks after boot
	threads, nice               int
	vsz, rss                    int64 // bytes
}

// hz is the unit of times in /proc, USER_HZ on every machine.
const hz = 100

// processes reads /proc. A process that ends meanwhile is left out.
func processes() ([]process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b process) int { return a.pid - b.pid })
	return all, nil
}

func readProcess(pid int) (process, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return process{}, false
	}
	// pid (comm) state …: comm may contain anything, also parentheses.
	begin, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if begin < 0 || end < begin {
		return process{}, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 22 {
		return process{}, false
	}
	n := func(i int) int64 { v, _ := strconv.ParseInt(f[i], 10, 64); return v }
	p := process{
		pid: pid, comm: string(b[begin+1 : end]), state: f[0],
		ppid: int(n(1)), pgid: int(n(2)), sid: int(n(3)), ttyNr: int(n(4)),
		ticks: n(11) + n(12), nice: int(n(16)), threads: int(n(17)), started: n(19),
		vsz: n(20), rss: n(21) * int64(os.Getpagesize()),
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		p.uid = st.Uid
	}
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		p.args = strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	}
	return p, true
}

// command is the command line, or the bracketed name of what has none.
func (p *process) command() string {
	if len(p.args) == 0 {
		return "[" + p.comm + "]"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return '?'
		}
		return r
	}, strings.Join(p.args, " "))
}

// tty names the controlling terminal: its number's device, as the kernel
// allots them, or ? without one.
func (p *process) tty() string {
	if p.ttyNr == 0 {
		return "?"
	}
	major, minor := unix.Major(uint64(p.ttyNr)), p.ttyNr&0xff|p.ttyNr>>12&0xfff00
	switch {
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	case major == 5 && minor == 1:
		return "console"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", int(major-136)<<8+minor)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

// column is a kind of output of ps.
type column struct {
	name  string
	title string
	width int // negative: to the left
	text  func(*process, *listing) string
}

// listing is what columns need besides the process.
type listing struct {
	db    account.Database
	boot  time.Time
	now   time.Time
	total int64 // memory
}

var columns = [...]column{
	{"pid", "PID", 7, func(p *process, _ *listing) string { return strconv.Itoa(p.pid) }},
	{"ppid", "PPID", 7, func(p *process, _ *listing) string { return strconv.Itoa(p.ppid) }},
	{"pgid", "PGID", 7, func(p *process, _ *listing) string { return strconv.Itoa(p.pgid) }},
	{"sid", "SID", 7, func(p *process, _ *listing) string { return strconv.Itoa(p.sid) }},
	{"uid", "UID", 5, func(p *process, _ *listing) string { return strconv.Itoa(int(p.uid)) }},
	{"user", "USER", -8, func(p *process, l *listing) string { return l.db.UserName(p.uid) }},
	{"stat", "STAT", -4, func(p *process, _ *listing) string { return p.state }},
	{"tty", "TTY", -8, func(p *process, _ *listing) string { return p.tty() }},
	{"ni", "NI", 3, func(p *process, _ *listing) string { return strconv.Itoa(p.nice) }},
	{"nlwp", "NLWP", 4, func(p *process, _ *listing) string { return strconv.Itoa(p.threads) }},
	{"vsz", "VSZ", 7, func(p *process, _ *listing) string { return strconv.FormatInt(p.vsz/1024, 10) }},
	{"rss", "RSS", 6, func(p *process, _ *listing) string { return strconv.FormatInt(p.rss/1024, 10) }},
	{"pcpu", "%CPU", 4, func(p *process, l *listing) string {
		life := l.now.Sub(p.start(l)).Seconds()
		return fmt.Sprintf("%.1f", 100*float64(p.ticks)/hz/max(life, 0.01))
	}},
	{"pmem", "%MEM", 4, func(p *process, l *listing) string {
		return fmt.Sprintf("%.1f", 100*float64(p.rss)/float64(max(l.total, 1)))
	}},
	{"start", "START", 5, func(p *process, l *listing) string {
		t := p.start(l)
		if l.now.Sub(t) > 24*time.Hour {
			return t.Format("Jan02")
		}
		return t.Format("15:04")
	}},
	{"etime", "ELAPSED", 11, func(p *process, l *listing) string { return elapsed(l.now.Sub(p.start(l))) }},
	{"time", "TIME", 8, func(p *process, _ *listing) string {
		s := p.ticks / hz
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	}},
	{"comm", "COMMAND", -15, func(p *process, _ *listing) string { return p.comm }},
	{"args", "COMMAND", 0, func(p *process, _ *listing) string { return p.command() }},
}

// synonyms of column names.
var synonyms = [...][2]string{
	{"state", "stat"}, {"s", "stat"}, {"tt", "tty"}, {"cmd", "args"}, {"command", "args"}, {"ucmd", "comm"},
	{"%cpu", "pcpu"}, {"%mem", "pmem"}, {"nice", "ni"}, {"pgrp", "pgid"}, {"sess", "sid"}, {"stime", "start"},
	{"thcount", "nlwp"}, {"vsize", "vsz"}, {"euser", "user"}, {"euid", "uid"}, {"cputime", "time"},
}

func (p *process) start(l *listing) time.Time {
	return l.boot.Add(time.Duration(p.started) * (time.Second / hz))
}

func elapsed(d time.Duration) string {
	s := int64(max(d, 0).Seconds())
	text := fmt.Sprintf("%02d:%02d", s/60%60, s%60)
	if s >= 3600 {
		text = fmt.Sprintf("%02d:", s/3600%24) + text
	}
	if s >= 86400 {
		text = fmt.Sprintf("%d-", s/86400) + text
	}
	return text
}

// Ps lists processes. All of them unless -p or -u choose: the guest is small.
func Ps(e *applet.Env, args []string) error {
	format := []string{"pid", "user", "tty", "time", "args"}
	var titles map[string]string
	var pids, users []string
	noHead := false
	// The forms without a dash: ps, ps ax, ps aux.
	if len(args) > 0 && args[0] != "" && strings.Trim(args[0], "axuwef") == "" && args[0][0] != '-' {
		if strings.Contains(args[0], "u") {
			format = []string{"user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "stat", "start", "time", "args"}
		}
		args = args[1:]
	}
	var o applet.Options
	everything := func() {}
	o.Func('e', "", everything)
	o.Func('A', "", everything)
	o.Func('f', "", func() {
		format = []string{"user", "pid", "ppid", "start", "tty", "time", "args"}
	})
	o.Func('l', "", func() {
		format = []string{"stat", "uid", "pid", "ppid", "ni", "vsz", "rss", "tty", "time", "comm"}
	})
	o.Value('p', "pid", func(s string) error { pids = append(pids, strings.Split(s, ",")...); return nil })
	o.Value('u', "user", func(s string) error { users = append(users, strings.Split(s, ",")...); return nil })
	o.Bool(&noHead, 0, "no-headers")
	custom := false
	o.Value('o', "format", func(s string) error {
		if !custom {
			format, custom, titles = nil, true, map[string]string{}
		}
		for _, name := range strings.Split(s, ",") {
			name, title, has := strings.Cut(name, "=")
			name = strings.ToLower(strings.TrimSpace(name))
			for _, syn := range synonyms {
				if syn[0] == name {
					name = syn[1]
				}
			}
			if !slices.ContainsFunc(columns[:], func(c column) bool { return c.name == name }) {
				return applet.Usagef("unknown column %s", applet.Quote(name))
			}
			format = append(format, name)
			if has {
				titles[name] = title
			}
		}
		return nil
	})
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) > 0 {
		return applet.Usagef("unexpected operand %s", applet.Quote(operands[0]))
	}
	all, err := processes()
	if err != nil {
		return err
	}
	l := &listing{db: account.Load(), now: time.Now()}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		l.boot = l.now.Add(-uptime())
		l.total = int64(si.Totalram) * int64(max(si.Unit, 1))
	}
	wanted := all[:0]
	for _, p := range all {
		name := l.db.UserName(p.uid)
		if (pids == nil || slices.Contains(pids, strconv.Itoa(p.pid))) &&
			(users == nil || slices.Contains(users, name) || slices.Contains(users, strconv.Itoa(int(p.uid)))) {
			wanted = append(wanted, p)
		}
	}
	l.write(e, wanted, format, titles, noHead)
	if len(wanted) == 0 {
		return applet.Status(1)
	}
	return nil
}

// uptime is the time since boot, finer than sysinfo(2) tells it.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func (l *listing) write(e *applet.Env, all []process, format []string, titles map[string]string, noHead bool) {
	var cols []column
	for _, name := range format {
		for _, c := range columns {
			if c.name == name {
				if t, ok := titles[name]; ok {
					c.title = t
				}
				cols = append(cols, c)
			}
		}
	}
	rows := make([][]string, 0, len(all)+1)
	head := make([]string, len(cols))
	blank := true
	for i, c := range cols {
		head[i] = c.title
		blank = blank && c.title == ""
	}
	if !noHead && !blank {
		rows = append(rows, head)
	}
	for i := range all {
		row := make([]string, len(cols))
		for j, c := range cols {
			row[j] = c.text(&all[i], l)
		}
		rows = append(rows, row)
	}
	for i := range cols {
		sign := 1
		if cols[i].width < 0 {
			sign = -1
		}
		w := cols[i].width * sign
		for _, row := range rows {
			w = max(w, len(row[i]))
		}
		cols[i].width = w * sign
	}
	limit := 0
	if ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		limit = int(ws.Col)
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			if i == len(row)-1 && cols[i].width <= 0 || cols[i].name == "args" {
				b.WriteString(cell)
			} else {
				fmt.Fprintf(&b, "%*s", cols[i].width, cell)
			}
			if i < len(row)-1 {
				b.WriteByte(' ')
			}
		}
		line := b.String()
		if r := []rune(line); limit > 0 && len(r) > limit {
			line = string(r[:limit])
		}
		e.Stdout.WriteString(line + "\n")
	}
}
