package file

import (
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Mode is a change of file permissions, as chmod takes it: octal, or
// symbolic like u+rwX,go-w,a=r,g=u,+t.
type Mode struct {
	octal   bool
	bits    uint32
	clauses []clause
}

type clause struct {
	who  uint32 // the bits this may change
	any  bool   // nobody was named: the umask applies
	op   byte
	perm uint32 // of rwxst, for all classes
	x    bool   // X: execute for directories and what is executable already
	copy byte   // u, g or o whose permissions are taken
}

// ParseMode reads a mode.
func ParseMode(s string) (Mode, error) {
	wrong := applet.Usagef("invalid mode: %s", applet.Quote(s))
	if n, err := strconv.ParseUint(s, 8, 32); err == nil {
		if n > 0o7777 {
			return Mode{}, wrong
		}
		return Mode{octal: true, bits: uint32(n)}, nil
	}
	var m Mode
	for part := range strings.SplitSeq(s, ",") {
		i, who, any := 0, uint32(0), true
	classes:
		for ; i < len(part); i++ {
			switch part[i] {
			case 'u':
				who |= 0o4700
			case 'g':
				who |= 0o2070
			case 'o':
				who |= 0o1007
			case 'a':
				who |= 0o7777
			default:
				break classes
			}
			any = false
		}
		if any {
			who = 0o7777
		}
		if i == len(part) {
			return Mode{}, wrong
		}
		for i < len(part) {
			c := clause{who: who, any: any, op: part[i]}
			if strings.IndexByte("+-=", c.op) < 0 {
				return Mode{}, wrong
			}
			for i++; i < len(part) && strings.IndexByte("+-=", part[i]) < 0; i++ {
				switch p := part[i]; p {
				case 'r':
					c.perm |= 0o444
				case 'w':
					c.perm |= 0o222
				case 'x':
					c.perm |= 0o111
				case 'X':
					c.x = true
				case 's':
					c.perm |= 0o6000
				case 't':
					c.perm |= 0o1000
				case 'u', 'g', 'o':
					c.copy = p
				default:
					return Mode{}, wrong
				}
			}
			m.clauses = append(m.clauses, c)
		}
	}
	return m, nil
}

// Apply returns the permission bits (0o7777) after the change. mode is the
// whole st_mode.
func (m Mode) Apply(mode uint32) uint32 {
	dir := mode&unix.S_IFMT == unix.S_IFDIR
	old := mode & 0o7777
	if m.octal {
		if dir {
			return m.bits | old&0o6000 // only symbolic modes clear them on directories
		}
		return m.bits
	}
	umask := uint32(unix.Umask(0))
	unix.Umask(int(umask))
	for _, c := range m.clauses {
		perm := c.perm
		if c.x && (dir || old&0o111 != 0) {
			perm |= 0o111
		}
		if c.copy != 0 {
			shift := map[byte]int{'u': 6, 'g': 3, 'o': 0}[c.copy]
			perm |= old >> shift & 7 * 0o111
		}
		perm &= c.who
		if c.any {
			perm &^= umask
		}
		switch c.op {
		case '+':
			old |= perm
		case '-':
			old &^= perm
		case '=':
			clear := c.who
			if dir {
				clear &^= 0o6000 &^ c.perm
			}
			old = old&^clear | perm
		}
	}
	return old
}
