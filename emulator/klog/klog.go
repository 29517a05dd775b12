// Package klog is the kernel log of a machine: what dmesg, /dev/kmsg, /proc/kmsg and
// the console show.
//
// A record is one message: a level, a facility, the time since boot, and a text that
// may have several lines. The log keeps the newest records, as many as fit into its
// size, and numbers all that there ever were.
package klog

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"gvisor.dev/gvisor/pkg/waiter"
)

// Level is how much a record matters; lower is more.
type Level int

// The levels of syslog(3).
const (
	Emerg Level = iota
	Alert
	Crit
	Err
	Warning
	Notice
	Info
	Debug
)

// The console levels that the command line asks for by name. A record is shown on the
// console when its level is below the console's.
const (
	// ConsoleDefault shows all but debug records.
	ConsoleDefault = 7
	// ConsoleQuiet is what "quiet" asks for: warnings are kept back too.
	ConsoleQuiet = 4
	// ConsoleDebug is what "debug" asks for: all is shown.
	ConsoleDebug = 10
	// consoleMinimum is what SYSLOG_ACTION_CONSOLE_OFF leaves: only Emerg.
	consoleMinimum = 1
)

const (
	// facilityKernel and facilityUser are those of syslog(3).
	facilityKernel = 0
	facilityUser   = 1
	// defaultLevel is the level of a line from user space that gives none.
	defaultLevel = Warning

	// DefaultSize is the size of a log whose Options name none, in bytes.
	DefaultSize = 1 << 17
	// recordOverhead is counted for each record beside its text.
	recordOverhead = 32
	// maxText is the longest text of a record, in bytes.
	maxText = 1024 - 32
)

// record is one message.
type record struct {
	seq      uint64
	time     time.Duration
	level    Level
	facility int
	text     string
}

func (r *record) size() int { return len(r.text) + recordOverhead }

// prefix is the number that syslog and /dev/kmsg give for facility and level.
func (r *record) prefix() int { return r.facility<<3 | int(r.level) }

// Options say how a log is made. The zero value is the default.
type Options struct {
	// Size bounds the records that are kept, in bytes; 0 is DefaultSize.
	Size int
	// ConsoleLevel is the console's level; 0 is ConsoleDefault.
	ConsoleLevel int
	// EveryMessage has the console show every record, whatever its level.
	EveryMessage bool
	// Now is the time since boot; nil counts from New.
	Now func() time.Duration
	// Restrict lets only those read who hold CAP_SYSLOG, as dmesg_restrict does.
	Restrict bool
}

// Log is a kernel log. All methods may be called by any number of goroutines at once.
type Log struct {
	size int
	now  func() time.Duration
	// every has the console show every record.
	every bool

	// queue tells of new records.
	queue waiter.Queue

	// consoleMu keeps the console's lines in the records' order. It is taken
	// before mu.
	consoleMu sync.Mutex
	console   io.Writer
	printed   uint64

	mu       sync.Mutex
	records  []record
	bytes    int
	next     uint64
	cleared  uint64
	restrict bool
	level    int
	// saved is the console's level before SYSLOG_ACTION_CONSOLE_OFF, or 0.
	saved int

	// unread is the first record that SYSLOG_ACTION_READ has not given, and
	// partial how many bytes of it were given.
	unread  uint64
	partial int
}

// New makes an empty log without a console.
func New(o Options) *Log {
	l := &Log{size: o.Size, now: o.Now, level: o.ConsoleLevel, every: o.EveryMessage, restrict: o.Restrict}
	if l.size <= 0 {
		l.size = DefaultSize
	}
	if l.level <= 0 {
		l.level = ConsoleDefault
	}
	if l.now == nil {
		start := time.Now()
		l.now = func() time.Duration { return time.Since(start) }
	}
	return l
}

// Printf adds a record of the kernel's. A newline at its end is dropped. It waits for
// nothing but the console's Write.
func (l *Log) Printf(level Level, format string, args ...any) {
	l.add(facilityKernel, level, fmt.Sprintf(format, args...))
}

// Infof adds a record of level Info. It is in the form that other packages ask for as
// their Logf.
func (l *Log) Infof(format string, args ...any) { l.Printf(Info, format, args...) }

// add stores a record, and shows it on the console.
func (l *Log) add(facility int, level Level, text string) {
	text = strings.TrimRight(text, "\n")
	if len(text) > maxText {
		text = text[:maxText]
		for !utf8.ValidString(text[max(0, len(text)-utf8.UTFMax):]) && len(text) > maxText-utf8.UTFMax {
			text = text[:len(text)-1]
		}
	}
	l.mu.Lock()
	r := record{seq: l.next, time: l.now(), level: level, facility: facility, text: text}
	l.next++
	l.records = append(l.records, r)
	l.bytes += r.size()
	drop := 0
	for l.bytes > l.size && drop < len(l.records)-1 {
		l.bytes -= l.records[drop].size()
		l.records[drop] = record{}
		drop++
	}
	l.records = l.records[drop:]
	l.mu.Unlock()

	l.show()
	l.queue.Notify(waiter.ReadableEvents)
}

// show writes to the console what it has not shown yet.
func (l *Log) show() {
	l.consoleMu.Lock()
	defer l.consoleMu.Unlock()
	for l.console != nil {
		l.mu.Lock()
		r, ok := l.atOrAfter(l.printed)
		level := l.level
		l.mu.Unlock()
		if !ok {
			return
		}
		l.printed = r.seq + 1
		if l.every || int(r.level) < level {
			// A console that fails has nowhere to say so.
			_, _ = l.console.Write(r.lines(false))
		}
	}
}

// SetConsole makes w the console, which may be nil for none. A first console is shown
// all records that are kept; a later one goes on where the one before it was. Write
// gets whole lines that end in a newline, one call a record. It must not wait long,
// and must not use the log.
func (l *Log) SetConsole(w io.Writer) {
	l.consoleMu.Lock()
	l.console = w
	l.consoleMu.Unlock()
	l.show()
}

// ConsoleLevel is the console's level.
func (l *Log) ConsoleLevel() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level
}

// SetConsoleLevel sets the console's level. Levels outside 1 to 15 become the nearest.
func (l *Log) SetConsoleLevel(level int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = min(max(level, consoleMinimum), 15)
	l.saved = 0
}

// Restricted says that only holders of CAP_SYSLOG may read the log.
func (l *Log) Restricted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.restrict
}

// SetRestricted is what a write to /proc/sys/kernel/dmesg_restrict asks for.
func (l *Log) SetRestricted(restrict bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restrict = restrict
}

// Bytes is the whole log as dmesg -r shows it, for those outside the guest.
func (l *Log) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []byte
	for i := range l.records {
		out = append(out, l.records[i].lines(true)...)
	}
	return out
}

// atOrAfter is the first record that is kept and has at least the number seq.
//
// Precondition: l.mu is held.
func (l *Log) atOrAfter(seq uint64) (record, bool) {
	if len(l.records) == 0 {
		return record{}, false
	}
	first := l.records[0].seq
	if seq < first {
		seq = first
	}
	if seq-first >= uint64(len(l.records)) {
		return record{}, false
	}
	return l.records[seq-first], true
}

// lines is the record as syslog(2) and the console show it: every line with the time,
// and with the level before it when asked.
func (r *record) lines(level bool) []byte {
	var out []byte
	for _, line := range strings.Split(r.text, "\n") {
		if level {
			out = fmt.Appendf(out, "<%d>", r.prefix())
		}
		out = fmt.Appendf(out, "[%5d.%06d] ", r.time/time.Second, r.time%time.Second/time.Microsecond)
		out = append(out, line...)
		out = append(out, '\n')
	}
	return out
}
