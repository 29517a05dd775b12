package system

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
	"golang.org/x/sys/unix"
)

// Date shows or sets the time.
func Date(e *applet.Env, args []string) error {
	var utc, mail bool
	var text, set, list, reference, iso string
	var isISO bool
	// -I has an argument only when it is attached.
	for i, a := range args {
		if rest, ok := strings.CutPrefix(a, "-I"); ok {
			isISO, iso = true, rest
			args = append(append([]string{}, args[:i]...), args[i+1:]...)
			break
		}
	}
	var o applet.Options
	o.Bool(&utc, 'u', "utc")
	o.Bool(&mail, 'R', "rfc-email")
	o.String(&text, 'd', "date")
	o.String(&set, 's', "set")
	o.String(&list, 'f', "file")
	o.String(&reference, 'r', "reference")
	o.Value(0, "rfc-3339", func(s string) error { isISO, iso = true, "3339:"+s; return nil })
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	switch {
	case mail:
		format = "%a, %d %b %Y %H:%M:%S %z"
	case isISO:
		var ok bool
		format, ok = map[string]string{"": "%Y-%m-%d", "date": "%Y-%m-%d", "hours": "%Y-%m-%dT%H%:z",
			"minutes": "%Y-%m-%dT%H:%M%:z", "seconds": "%Y-%m-%dT%H:%M:%S%:z", "ns": "%Y-%m-%dT%H:%M:%S,%N%:z",
			"3339:date": "%Y-%m-%d", "3339:seconds": "%Y-%m-%d %H:%M:%S%:z", "3339:ns": "%Y-%m-%d %H:%M:%S.%N%:z"}[iso]
		if !ok {
			return applet.Usagef("invalid precision %s", applet.Quote(iso))
		}
	}
	now := time.Now()
	if utc {
		now = now.UTC()
	}
	t := now
	for _, op := range operands {
		if f, ok := strings.CutPrefix(op, "+"); ok {
			format = f
			continue
		}
		if set != "" {
			return applet.Usagef("extra operand %s", applet.Quote(op))
		}
		if t, err = posixStamp(op, now); err != nil {
			return err
		}
		if err := setTime(t); err != nil {
			e.Warnf("cannot set date: %s", applet.Reason(err))
		}
	}
	switch {
	case set != "":
		if t, err = clock.Parse(set, now); err != nil {
			return err
		}
		if err := setTime(t); err != nil {
			e.Warnf("cannot set date: %s", applet.Reason(err))
		}
	case text != "":
		if t, err = clock.Parse(text, now); err != nil {
			return err
		}
	case reference != "":
		st, err := os.Stat(reference)
		if err != nil {
			return err
		}
		t = st.ModTime()
	case list != "":
		return dates(e, list, format, now)
	}
	if utc {
		t = t.UTC()
	}
	e.Stdout.WriteString(clock.Format(t, format) + "\n")
	return nil
}

func dates(e *applet.Env, path, format string, now time.Time) error {
	in := e.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	s := bufio.NewScanner(in)
	for s.Scan() {
		t, err := clock.Parse(s.Text(), now)
		if err != nil {
			e.Warn(err)
			continue
		}
		e.Stdout.WriteString(clock.Format(t, format) + "\n")
	}
	return s.Err()
}

// posixStamp reads MMDDhhmm[[CC]YY][.ss].
func posixStamp(s string, now time.Time) (time.Time, error) {
	main, sec, has := strings.Cut(s, ".")
	if len(main) > 8 { // the year moves to where touch has it
		main = main[8:] + main[:8]
	}
	if has {
		main += "." + sec
	}
	return clock.Stamp(main, now)
}

func setTime(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// Sleep waits.
func Sleep(e *applet.Env, args []string) error {
	var o applet.Options
	times, err := o.ParseSome(args, 1)
	if err != nil {
		return err
	}
	var total time.Duration
	for _, s := range times {
		d, err := clock.Duration(s)
		if err != nil {
			return err
		}
		if total += d; total < 0 {
			total = 1<<63 - 1
		}
	}
	// nanosleep(2) itself: no timer thread for what only waits.
	ts := unix.NsecToTimespec(int64(total))
	for {
		err := unix.Nanosleep(&ts, &ts)
		if err != unix.EINTR {
			return err
		}
	}
}

// Hostname shows or sets the name of the machine.
func Hostname(e *applet.Env, args []string) error {
	var short, fqdn bool
	var file string
	var o applet.Options
	o.Bool(&short, 's', "short")
	o.Bool(&fqdn, 'f', "fqdn")
	o.String(&file, 'F', "file")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				names = []string{line}
				break
			}
		}
	}
	if len(names) > 0 {
		if err := unix.Sethostname([]byte(names[0])); err != nil {
			return fmt.Errorf("you must be root to change the host name: %s", applet.Reason(err))
		}
		return nil
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	if short {
		name, _, _ = strings.Cut(name, ".")
	}
	if fqdn {
		name = hostsName(name)
	}
	e.Stdout.WriteString(name + "\n")
	return nil
}

// hostsName is the first name on the line of /etc/hosts that lists name.
func hostsName(name string) string {
	b, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return name
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		for i := 1; i < len(f); i++ {
			if f[i] == name {
				return f[1]
			}
		}
	}
	return name
}
