package strace

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	calls "gvisor.dev/gvisor/pkg/sentry/strace"
)

// spec is which system calls of which tasks are logged.
type spec struct {
	text string
	// all is every task; else those of the processes or those of that name.
	all       bool
	processes []kernel.ThreadID
	name      string
	// numbers are the calls, nil for every call.
	numbers map[uintptr]bool
}

// maxName is how much of a task's name the kernel keeps, in bytes.
const maxName = 15

// parse reads TASKS[:CALLS].
func parse(text string) (*spec, error) {
	s := &spec{text: text}
	tasks, list, some := strings.Cut(text, ":")
	switch {
	case tasks == "all":
		s.all = true
	case tasks == "comm":
		s.name, list, some = strings.Cut(list, ":")
		if s.name == "" || len(s.name) > maxName {
			return nil, fmt.Errorf("comm:%s: a task's name has 1 to %d bytes", s.name, maxName)
		}
	default:
		for _, field := range strings.Split(tasks, ",") {
			pid, err := strconv.ParseInt(field, 10, 32)
			if err != nil || pid < 1 {
				return nil, fmt.Errorf("%q is neither all, comm:NAME nor the number of a process", field)
			}
			s.processes = append(s.processes, kernel.ThreadID(pid))
		}
	}
	if !some {
		return s, nil
	}
	known, ok := calls.Lookup(abi.Linux, arch.Host)
	if !ok {
		return nil, fmt.Errorf("system calls have no names on this architecture")
	}
	s.numbers = make(map[uintptr]bool)
	for _, name := range strings.Split(list, ",") {
		number, ok := known.ConvertToSysno(name)
		if !ok {
			return nil, fmt.Errorf("%q is no system call", name)
		}
		s.numbers[number] = true
	}
	return s, nil
}

// has reports whether a call of a task is logged. A nil spec has none.
func (s *spec) has(t *kernel.Task, number uintptr) bool {
	switch {
	case s == nil, s.numbers != nil && !s.numbers[number]:
		return false
	case s.all:
		return true
	case s.name != "":
		return t.Name() == s.name
	}
	return slices.Contains(s.processes, t.Kernel().RootPIDNamespace().IDOfThreadGroup(t.ThreadGroup()))
}
