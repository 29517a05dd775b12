// Package clock reads dates as people write them and writes them as strftime(3) does.
package clock

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// layouts are the forms of a date that Parse takes, besides @SECONDS and
// relative ones.
var layouts = [...]string{
	time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04",
	"2006-01-02 15:04:05.999999999 -0700", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 MST",
	"2006-01-02 15:04:05.999999999", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02",
	time.RFC1123Z, time.RFC1123, time.UnixDate, time.RubyDate, time.ANSIC,
	"Mon Jan _2 15:04:05 2006", "Jan _2 15:04:05 2006", "2 Jan 2006 15:04:05", "2 Jan 2006", "Jan 2 2006",
	"20060102", "01/02/2006",
}

// Parse reads a date: one of the usual forms, @SECONDS since 1970, a time of
// day, now, today, yesterday, tomorrow, or a distance like "2 hours ago" or "+3
// days". Where no zone is named it is that of now.
func Parse(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if text, ok := strings.CutPrefix(s, "@"); ok {
		sec, frac, _ := strings.Cut(text, ".")
		n, err := strconv.ParseInt(sec, 10, 64)
		if err == nil {
			nsec, ferr := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
			if ferr == nil {
				return time.Unix(n, nsec).In(now.Location()), nil
			}
		}
		return time.Time{}, fmt.Errorf("invalid date '%s'", s)
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	if t, ok := relative(s, now); ok {
		return t, nil
	}
	// A date with a distance behind it. What comes before is shorter each time.
	for i := strings.LastIndexByte(s, ' '); i > 0; i = strings.LastIndexByte(s[:i], ' ') {
		if _, ok := relative(s[i:], now); ok {
			if t, err := Parse(s[:i], now); err == nil {
				t, _ = relative(s[i:], t)
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("invalid date '%s'", s)
}

func relative(s string, now time.Time) (time.Time, bool) {
	words := strings.Fields(strings.ToLower(s))
	if len(words) == 0 {
		y, m, d := now.Date()
		return time.Date(y, m, d, 0, 0, 0, 0, now.Location()), true
	}
	t := now
	for i := 0; i < len(words); i++ {
		n := 1
		switch w := words[i]; w {
		case "now", "today":
			continue
		case "yesterday":
			t = t.AddDate(0, 0, -1)
			continue
		case "tomorrow":
			t = t.AddDate(0, 0, 1)
			continue
		case "next":
			i++
		case "last":
			n = -1
			i++
		default:
			if v, err := strconv.Atoi(w); err == nil {
				n = v
				i++
			}
		}
		if i >= len(words) {
			return time.Time{}, false
		}
		unit := strings.TrimSuffix(words[i], "s")
		if i+1 < len(words) && words[i+1] == "ago" {
			n = -n
			i++
		}
		switch unit {
		case "year":
			t = t.AddDate(n, 0, 0)
		case "month":
			t = t.AddDate(0, n, 0)
		case "fortnight":
			t = t.AddDate(0, 0, 14*n)
		case "week":
			t = t.AddDate(0, 0, 7*n)
		case "day":
			t = t.AddDate(0, 0, n)
		case "hour":
			t = t.Add(time.Duration(n) * time.Hour)
		case "minute", "min":
			t = t.Add(time.Duration(n) * time.Minute)
		case "second", "sec":
			t = t.Add(time.Duration(n) * time.Second)
		default:
			return time.Time{}, false
		}
	}
	return t, true
}

// Stamp reads the touch -t form, [[CC]YY]MMDDhhmm[.ss].
func Stamp(s string, now time.Time) (time.Time, error) {
	main, sec, has := strings.Cut(s, ".")
	layout := map[int]string{8: "01021504", 10: "0601021504", 12: "200601021504"}[len(main)]
	if layout == "" || has && len(sec) != 2 {
		return time.Time{}, fmt.Errorf("invalid date format '%s'", s)
	}
	if len(main) == 8 {
		main, layout = strconv.Itoa(now.Year())+main, "2006"+layout
	}
	if has {
		main, layout = main+sec, layout+"05"
	}
	t, err := time.ParseInLocation(layout, main, now.Location())
	if err != nil {
		return t, fmt.Errorf("invalid date format '%s'", s)
	}
	return t, nil
}

// Format writes t as strftime(3) does in the C locale, with GNU's %N for
// nanoseconds, %:z, and the flags - _ 0 ^ for padding and case.
func Format(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		start := i
		i++
		flag, width := byte(0), 0
		for i+1 < len(format) && strings.IndexByte("-_0^#", format[i]) >= 0 {
			flag = format[i]
			i++
		}
		for i+1 < len(format) && format[i] >= '0' && format[i] <= '9' && width < 100 {
			width = width*10 + int(format[i]-'0')
			i++
		}
		colons := 0
		for i+1 < len(format) && format[i] == ':' {
			colons++
			i++
		}
		text, ok := conversion(t, format[i], flag, width, colons)
		if !ok {
			text = format[start : i+1]
		}
		b.WriteString(text)
	}
	return b.String()
}

func conversion(t time.Time, c, flag byte, width, colons int) (string, bool) {
	num := func(n, w int, pad byte) (string, bool) {
		switch flag {
		case '-':
			w = 0
		case '_':
			pad = ' '
		case '0':
			pad = '0'
		}
		s := strconv.Itoa(n)
		if pad != 0 && len(s) < max(w, width) {
			s = strings.Repeat(string(pad), max(w, width)-len(s)) + s
		}
		return s, true
	}
	text := func(s string) (string, bool) {
		if flag == '^' {
			s = strings.ToUpper(s)
		}
		if len(s) < width {
			s = strings.Repeat(" ", width-len(s)) + s
		}
		return s, true
	}
	hour12 := (t.Hour()+11)%12 + 1
	isoYear, isoWeek := t.ISOWeek()
	switch c {
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 'a':
		return text(t.Format("Mon"))
	case 'A':
		return text(t.Format("Monday"))
	case 'b', 'h':
		return text(t.Format("Jan"))
	case 'B':
		return text(t.Format("January"))
	case 'c':
		return text(t.Format("Mon Jan _2 15:04:05 2006"))
	case 'C':
		return num(t.Year()/100, 2, '0')
	case 'd':
		return num(t.Day(), 2, '0')
	case 'D', 'x':
		return text(t.Format("01/02/06"))
	case 'e':
		return num(t.Day(), 2, ' ')
	case 'F':
		return text(t.Format("2006-01-02"))
	case 'g':
		return num(isoYear%100, 2, '0')
	case 'G':
		return num(isoYear, 4, '0')
	case 'H':
		return num(t.Hour(), 2, '0')
	case 'I':
		return num(hour12, 2, '0')
	case 'j':
		return num(t.YearDay(), 3, '0')
	case 'k':
		return num(t.Hour(), 2, ' ')
	case 'l':
		return num(hour12, 2, ' ')
	case 'm':
		return num(int(t.Month()), 2, '0')
	case 'M':
		return num(t.Minute(), 2, '0')
	case 'N':
		s := fmt.Sprintf("%09d", t.Nanosecond())
		if width > 0 && width < 9 {
			s = s[:width]
		}
		return s, true
	case 'p':
		return text(t.Format("PM"))
	case 'P':
		return text(strings.ToLower(t.Format("PM")))
	case 'q':
		return num((int(t.Month())+2)/3, 1, '0')
	case 'r':
		return text(t.Format("03:04:05 PM"))
	case 'R':
		return text(t.Format("15:04"))
	case 's':
		return strconv.FormatInt(t.Unix(), 10), true
	case 'S':
		return num(t.Second(), 2, '0')
	case 'T', 'X':
		return text(t.Format("15:04:05"))
	case 'u':
		return num((int(t.Weekday())+6)%7+1, 1, '0')
	case 'U':
		return num((t.YearDay()+6-int(t.Weekday()))/7, 2, '0')
	case 'V':
		return num(isoWeek, 2, '0')
	case 'w':
		return num(int(t.Weekday()), 1, '0')
	case 'W':
		return num((t.YearDay()+6-(int(t.Weekday())+6)%7)/7, 2, '0')
	case 'y':
		return num(t.Year()%100, 2, '0')
	case 'Y':
		return num(t.Year(), 4, '0')
	case 'z':
		switch colons {
		case 0:
			return t.Format("-0700"), true
		case 1:
			return t.Format("-07:00"), true
		}
		return t.Format("-07:00:00"), true
	case 'Z':
		return text(t.Format("MST"))
	}
	return "", false
}

// Duration reads a number of seconds, or of minutes (m), hours (h) or days (d),
// with a fraction if need be.
func Duration(s string) (time.Duration, error) {
	unit, text := time.Second, s
	if n := len(s); n > 1 {
		switch s[n-1] {
		case 's':
			text = s[:n-1]
		case 'm':
			unit, text = time.Minute, s[:n-1]
		case 'h':
			unit, text = time.Hour, s[:n-1]
		case 'd':
			unit, text = 24*time.Hour, s[:n-1]
		}
	}
	if text == "inf" || text == "infinity" {
		return 1<<63 - 1, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v < 0 || v != v {
		return 0, fmt.Errorf("invalid time interval '%s'", s)
	}
	if v *= float64(unit); v >= 1<<63 {
		return 1<<63 - 1, nil
	}
	return time.Duration(v), nil
}
