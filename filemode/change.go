// Package filemode is the mode of a file as people write it: changes of it for chmod(1),
// and what ls(1) shows of it. Modes are those of stat(2), whose bits are the same in the
// inodes of ext file systems.
package filemode

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	permissions = 0o7777
	setIDs      = unix.S_ISUID | unix.S_ISGID
)

// Change is a change of permissions: a number, or clauses as u+rwX,go-w,a=r,g=u,+t.
type Change struct {
	octal   bool
	bits    uint32
	clauses []clause
}

type clause struct {
	who  uint32 // the bits this may change
	any  bool   // nobody was named: the umask applies
	op   byte   // + - =
	perm uint32 // of rwxst, for all of who
	x    bool   // X: execute for directories and what is executable already
	copy byte   // u, g or o whose permissions are taken; 0: none
}

// Number is the change to these permissions.
func Number(bits uint32) Change { return Change{octal: true, bits: bits} }

// Parse reads a change.
func Parse(text string) (Change, error) {
	if text != "" && strings.Trim(text, "01234567") == "" {
		n, err := strconv.ParseUint(text, 8, 32)
		if err != nil || n > permissions {
			return Change{}, fmt.Errorf("mode %q is larger than 7777", text)
		}
		return Number(uint32(n)), nil
	}
	bad := fmt.Errorf("mode %q: an octal number, or clauses as u+x,go-w", text)
	var m Change
	for part := range strings.SplitSeq(text, ",") {
		i, who := 0, uint32(0)
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
				who |= permissions
			default:
				break classes
			}
		}
		any := i == 0
		if any {
			who = permissions
		}
		if i == len(part) {
			return Change{}, bad
		}
		for i < len(part) {
			c := clause{who: who, any: any, op: part[i]}
			if strings.IndexByte("+-=", c.op) < 0 {
				return Change{}, bad
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
					c.perm |= setIDs
				case 't':
					c.perm |= unix.S_ISVTX
				case 'u', 'g', 'o':
					c.copy = p
				default:
					return Change{}, bad
				}
			}
			m.clauses = append(m.clauses, c)
		}
	}
	return m, nil
}

// Number is the change's number, if it is one.
func (m Change) Number() (bits uint32, ok bool) { return m.bits, m.octal }

// Apply returns the permissions that a file of a mode gets, which tells directories from
// others: they keep their set-user-ID and set-group-ID bits unless a clause names them.
// Clauses that name nobody leave alone what is in the umask.
func (m Change) Apply(mode, umask uint32) uint32 {
	dir := mode&unix.S_IFMT == unix.S_IFDIR
	old := mode & permissions
	if m.octal {
		if dir {
			return m.bits | old&setIDs
		}
		return m.bits
	}
	for _, c := range m.clauses {
		perm := c.perm
		if c.x && (dir || old&0o111 != 0) {
			perm |= 0o111
		}
		switch c.copy {
		case 'u':
			perm |= old >> 6 & 7 * 0o111
		case 'g':
			perm |= old >> 3 & 7 * 0o111
		case 'o':
			perm |= old & 7 * 0o111
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
			cleared := c.who
			if dir {
				cleared &^= setIDs &^ c.perm
			}
			old = old&^cleared | perm
		}
	}
	return old
}
