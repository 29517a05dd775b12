package file

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/filemode"
	"golang.org/x/sys/unix"
)

func (l *lister) print(items []item) {
	rows := make([][]string, len(items))
	// Device numbers stand in columns of their own within that of the sizes.
	var major, minor int
	for i := range items {
		if st := &items[i].st; device(st) {
			major = max(major, len(strconv.Itoa(int(unix.Major(uint64(st.Rdev))))))
			minor = max(minor, len(strconv.Itoa(int(unix.Minor(uint64(st.Rdev))))))
		}
	}
	for i := range items {
		rows[i] = l.row(&items[i], major, minor)
	}
	widths := align(rows)
	if !l.long && l.columns {
		l.grid(rows, widths)
		return
	}
	for _, row := range rows {
		writeRow(l.e.Stdout, row, widths)
		l.e.Stdout.WriteByte('\n')
	}
}

// A row is a list of cells, the name last. A cell that begins with this mark
// is set to the left of its column.
const left = "\x00"

func device(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK
}

func (l *lister) row(it *item, major, minor int) []string {
	var r []string
	st := &it.st
	if l.inode {
		r = append(r, strconv.FormatUint(st.Ino, 10))
	}
	if l.blocks {
		r = append(r, l.size((st.Blocks+1)/2, st.Blocks*512))
	}
	if l.long {
		r = append(r, filemode.String(st.Mode), strconv.FormatUint(uint64(st.Nlink), 10))
		if !l.noOwner {
			r = append(r, left+l.db.UserName(st.Uid))
		}
		if !l.noGroup {
			r = append(r, left+l.db.GroupName(st.Gid))
		}
		if device(st) {
			r = append(r, fmt.Sprintf("%*d, %*d", major, unix.Major(uint64(st.Rdev)), minor, unix.Minor(uint64(st.Rdev))))
		} else {
			r = append(r, l.size(st.Size, st.Size))
		}
		r = append(r, l.date(l.stamp(it)))
	}
	return append(r, left+l.label(it))
}

func (l *lister) size(plain, bytes int64) string {
	if l.human {
		return Human(bytes, 1024)
	}
	return strconv.FormatInt(plain, 10)
}

func (l *lister) date(t time.Time) string {
	if l.full {
		return t.Format("2006-01-02 15:04:05.000000000 -0700")
	}
	// Half a year of 365.2425 days decides, as POSIX has it.
	if age := l.now.Sub(t); age < 0 || age > 31556952*time.Second/2 {
		return t.Format("Jan _2  2006")
	}
	return t.Format("Jan _2 15:04")
}

func (l *lister) label(it *item) string {
	name := l.printable(it.name)
	mode := it.st.Mode
	if l.long && it.link != "" {
		name += " -> " + l.printable(it.link)
		if l.mark != 'F' {
			return name
		}
		var st unix.Stat_t
		if unix.Stat(it.path, &st) != nil {
			return name
		}
		mode = st.Mode
	}
	return name + indicator(mode, l.mark)
}

func indicator(mode uint32, mark byte) string {
	kind := mode & unix.S_IFMT
	switch {
	case mark == 0:
	case kind == unix.S_IFDIR:
		return "/"
	case mark == 'p':
	case kind == unix.S_IFLNK:
		return "@"
	case kind == unix.S_IFIFO:
		return "|"
	case kind == unix.S_IFSOCK:
		return "="
	case kind == unix.S_IFREG && mode&0o111 != 0:
		return "*"
	}
	return ""
}

func (l *lister) printable(s string) string {
	if !l.hide {
		return s
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// align returns the width of every column but the last.
func align(rows [][]string) []int {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	return widths
}

func width(cell string) int { return utf8.RuneCountInString(strings.TrimPrefix(cell, left)) }

func writeRow(w *applet.Writer, row []string, widths []int) {
	for i, cell := range row {
		text, toLeft := strings.CutPrefix(cell, left)
		pad := widths[i] - utf8.RuneCountInString(text)
		if !toLeft {
			w.WriteString(spaces(pad))
		}
		w.WriteString(text)
		if i == len(row)-1 {
			return
		}
		if toLeft {
			w.WriteString(spaces(pad))
		}
		w.WriteByte(' ')
	}
}

// grid prints rows down the columns that fit the terminal, two spaces apart.
func (l *lister) grid(rows [][]string, widths []int) {
	cells := make([]string, len(rows))
	for i, row := range rows {
		var b strings.Builder
		for j, cell := range row {
			text, toLeft := strings.CutPrefix(cell, left)
			if !toLeft {
				b.WriteString(spaces(widths[j]-width(cell)) + text + " ")
			} else {
				b.WriteString(text)
			}
		}
		cells[i] = b.String()
	}
	lines, cols := fit(cells, l.width)
	for y := range lines {
		for x := 0; x*lines+y < len(cells); x++ {
			cell := cells[x*lines+y]
			l.e.Stdout.WriteString(cell)
			if (x+1)*lines+y < len(cells) {
				l.e.Stdout.WriteString(spaces(cols[x] - utf8.RuneCountInString(cell)))
			}
		}
		l.e.Stdout.WriteByte('\n')
	}
}

// fit finds the fewest lines on which cells fit in columns, and their widths.
func fit(cells []string, total int) (lines int, cols []int) {
	for lines = 1; lines < len(cells); lines++ {
		cols = cols[:0]
		sum := 0
		for i := 0; i < len(cells) && sum <= total; i += lines {
			w := 0
			for _, c := range cells[i:min(i+lines, len(cells))] {
				w = max(w, utf8.RuneCountInString(c))
			}
			cols = append(cols, w+2)
			sum += w + 2
		}
		if sum-2 < total {
			return lines, cols
		}
	}
	return len(cells), []int{0}
}

func spaces(n int) string {
	if n <= 0 {
		return ""
	}
	return strings.Repeat(" ", n)
}

func writePadded(w *applet.Writer, n, width int) {
	s := strconv.Itoa(n)
	w.WriteString(spaces(width-len(s)) + s)
}

// Human writes a size in at most four characters, rounded up, with a suffix
// for the power of base (1024 or 1000), as ls -h, df -h and du -h do.
func Human(n int64, base int64) string {
	if n < base {
		return strconv.FormatInt(n, 10)
	}
	suffixes := "KMGTPE"
	unit, i := base, 0
	for i+1 < len(suffixes) && n/unit >= base {
		unit *= base
		i++
	}
	for {
		tenths := (n/unit)*10 + (n%unit*10+unit-1)/unit
		if tenths < 100 {
			return fmt.Sprintf("%d.%d%c", tenths/10, tenths%10, suffixes[i])
		}
		whole := (n + unit - 1) / unit
		if whole < base || i+1 == len(suffixes) {
			return fmt.Sprintf("%d%c", whole, suffixes[i])
		}
		unit *= base
		i++
	}
}
