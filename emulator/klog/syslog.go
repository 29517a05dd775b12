package klog

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The actions of syslog(2).
const (
	actionClose = iota
	actionOpen
	actionRead
	actionReadAll
	actionReadClear
	actionClear
	actionConsoleOff
	actionConsoleOn
	actionConsoleLevel
	actionSizeUnread
	actionSizeBuffer
)

// Syslog is the system call syslog(2), for the table of system calls.
func (l *Log) Syslog(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	action, addr, size := args[0].Int(), args[1].Pointer(), int(args[2].Int())
	if err := l.allowed(t.Credentials(), int(action)); err != nil {
		return 0, nil, err
	}
	switch action {
	case actionClose, actionOpen:
		return 0, nil, nil
	case actionRead, actionReadAll, actionReadClear:
		if addr == 0 || size < 0 {
			return 0, nil, linuxerr.EINVAL
		}
		if size == 0 {
			return 0, nil, nil
		}
		if action != actionRead {
			n, err := t.CopyOutBytes(addr, l.tail(size))
			if err == nil && action == actionReadClear {
				l.clear()
			}
			return uintptr(n), nil, err
		}
		if err := l.waitUnread(t); err != nil {
			return 0, nil, linuxerr.ConvertIntr(err, linuxerr.ERESTARTSYS)
		}
		n, err := l.readUnread(size, func(b []byte) (int, error) { return t.CopyOutBytes(addr, b) })
		return uintptr(n), nil, err
	case actionClear:
		l.clear()
	case actionConsoleOff:
		l.mu.Lock()
		if l.saved == 0 {
			l.saved = l.level
		}
		l.level = consoleMinimum
		l.mu.Unlock()
	case actionConsoleOn:
		l.mu.Lock()
		if l.saved != 0 {
			l.level, l.saved = l.saved, 0
		}
		l.mu.Unlock()
	case actionConsoleLevel:
		if size < 1 || size > 8 {
			return 0, nil, linuxerr.EINVAL
		}
		l.SetConsoleLevel(size)
	case actionSizeUnread:
		return uintptr(l.unreadSize()), nil, nil
	case actionSizeBuffer:
		return uintptr(l.size), nil, nil
	default:
		return 0, nil, linuxerr.EINVAL
	}
	return 0, nil, nil
}

// allowed says whether creds may do action: reading all is everyone's unless the log
// is restricted, the rest takes a privilege.
func (l *Log) allowed(creds *auth.Credentials, action int) error {
	if (action == actionReadAll || action == actionSizeBuffer) && !l.Restricted() {
		return nil
	}
	if creds.HasRootCapability(linux.CAP_SYSLOG) || creds.HasRootCapability(linux.CAP_SYS_ADMIN) {
		return nil
	}
	return linuxerr.EPERM
}

// tail is the newest whole records since the last clear, as many as fit into size bytes.
func (l *Log) tail(size int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	start := len(l.records)
	for n := 0; start > 0 && l.records[start-1].seq >= l.cleared; start-- {
		n += len(l.records[start-1].lines(true))
		if n > size {
			break
		}
	}
	var out []byte
	for i := start; i < len(l.records); i++ {
		out = append(out, l.records[i].lines(true)...)
	}
	return out
}

// clear hides all records so far from tail.
func (l *Log) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleared = l.next
}

// unreadSize is how many bytes SYSLOG_ACTION_READ would give in all.
func (l *Log) unreadSize() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range l.records {
		if l.records[i].seq >= l.unread {
			n += len(l.records[i].lines(true))
		}
	}
	if r, ok := l.atOrAfter(l.unread); ok && r.seq == l.unread {
		n -= l.partial
	}
	return n
}

// hasUnread says whether SYSLOG_ACTION_READ would give anything.
func (l *Log) hasUnread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unread < l.next
}

// waitUnread blocks the task until there is something unread.
func (l *Log) waitUnread(t *kernel.Task) error {
	if l.hasUnread() {
		return nil
	}
	e, ch := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.queue.EventRegister(&e)
	defer l.queue.EventUnregister(&e)
	for !l.hasUnread() {
		if err := t.Block(ch); err != nil {
			return err
		}
	}
	return nil
}

// readUnread gives copyOut at most size bytes of what is unread, and takes as read
// what copyOut took. The log is not locked meanwhile, so two readers may get the same.
func (l *Log) readUnread(size int, copyOut func([]byte) (int, error)) (int, error) {
	l.mu.Lock()
	seq, partial := l.unread, l.partial
	var out []byte
	for len(out) < size {
		r, ok := l.atOrAfter(seq)
		if !ok {
			break
		}
		if r.seq != seq {
			// The records between were overwritten.
			seq, partial = r.seq, 0
		}
		lines := r.lines(true)[partial:]
		if room := size - len(out); len(lines) > room {
			out = append(out, lines[:room]...)
			partial += room
			break
		}
		out = append(out, lines...)
		seq, partial = seq+1, 0
	}
	l.mu.Unlock()
	n, err := copyOut(out)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	l.unread, l.partial = seq, partial
	l.mu.Unlock()
	return n, nil
}
