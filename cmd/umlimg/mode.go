package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/ext4/format"
)

// modeChange is a mode of chmod(1): a number, or clauses as u+x,go-w.
type modeChange struct {
	octal   *uint32
	clauses []modeClause
}

type modeClause struct {
	who   uint16 // bits that may change
	op    byte   // + - =
	perm  uint16 // of all who
	copy  byte   // u, g, o: the permissions of those; 0: perm
	execX bool   // X: x for directories and where somebody has it
	set   uint16 // s and t
}

// whoBits are the permissions of user, group and others, with the bit that s stands for.
var whoBits = map[byte]uint16{'u': 0o4700, 'g': 0o2070, 'o': 0o1007}

// parseMode reads a mode. Without u, g, o or a, all are meant: the umask of this machine's
// user is none of the image's.
func parseMode(text string) (modeChange, error) {
	if text != "" && strings.Trim(text, "01234567") == "" {
		n, err := strconv.ParseUint(text, 8, 32)
		if err != nil || n > format.ModePerm {
			return modeChange{}, fmt.Errorf("mode %q is larger than 7777", text)
		}
		octal := uint32(n)
		return modeChange{octal: &octal}, nil
	}
	bad := fmt.Errorf("mode %q: an octal number, or clauses as u+x,go-w", text)
	var m modeChange
	for _, clause := range strings.Split(text, ",") {
		who := uint16(0)
		i := 0
		for ; i < len(clause) && strings.IndexByte("ugoa", clause[i]) >= 0; i++ {
			if clause[i] == 'a' {
				who |= format.ModePerm
			} else {
				who |= whoBits[clause[i]]
			}
		}
		if who == 0 {
			who = format.ModePerm
		}
		if i == len(clause) {
			return m, bad
		}
		for i < len(clause) {
			c := modeClause{who: who, op: clause[i]}
			if strings.IndexByte("+-=", c.op) < 0 {
				return m, bad
			}
			for i++; i < len(clause) && strings.IndexByte("+-=", clause[i]) < 0; i++ {
				switch p := clause[i]; p {
				case 'r':
					c.perm |= 0o444
				case 'w':
					c.perm |= 0o222
				case 'x':
					c.perm |= 0o111
				case 'X':
					c.execX = true
				case 's':
					c.set |= format.ModeSetUID | format.ModeSetGID
				case 't':
					c.set |= format.ModeSticky
				case 'u', 'g', 'o':
					c.copy = p
				default:
					return m, bad
				}
			}
			m.clauses = append(m.clauses, c)
		}
	}
	return m, nil
}

// apply is the mode that a file with a mode gets. A number leaves a directory its
// set-user-ID and set-group-ID bits, as in GNU's.
func (m modeChange) apply(mode uint16) uint16 {
	dir := mode&format.ModeType == format.ModeDir
	have := mode & format.ModePerm
	if m.octal != nil {
		have = uint16(*m.octal)
		if dir {
			have |= mode & (format.ModeSetUID | format.ModeSetGID)
		}
		return mode&format.ModeType | have
	}
	for _, c := range m.clauses {
		perm := c.perm
		if c.execX && (dir || have&0o111 != 0) {
			perm |= 0o111
		}
		switch c.copy {
		case 'u':
			perm |= have >> 6 & 7 * 0o111
		case 'g':
			perm |= have >> 3 & 7 * 0o111
		case 'o':
			perm |= have & 7 * 0o111
		}
		perm = (perm | c.set) & c.who
		switch c.op {
		case '+':
			have |= perm
		case '-':
			have &^= perm
		default:
			who := c.who
			if dir { // they stay unless they are named
				who &^= format.ModeSetUID | format.ModeSetGID
			}
			have = have&^who | perm
		}
	}
	return mode&format.ModeType | have
}
