package ubd

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/emulator/driver"
)

// Spec is what `ubdN[flags]=FILE[(:|,)FILE2[(:|,)SERIAL]]` says.
type Spec struct {
	// Unit is the number of the disk, 0 to 15.
	Unit int
	// File is the image, or the COW file when there is a Backing file.
	File, Backing string
	// Serial is what the disk gives as its serial number.
	Serial string
	// The flags r, s, c, d and t.
	ReadOnly, Sync, Shared, NoCOW, NoTrim bool
}

// String is the specification as Parse takes it, behind "ubd".
func (s Spec) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", s.Unit)
	for _, flag := range []struct {
		set    bool
		letter byte
	}{{s.ReadOnly, 'r'}, {s.Sync, 's'}, {s.Shared, 'c'}, {s.NoCOW, 'd'}, {s.NoTrim, 't'}} {
		if flag.set {
			b.WriteByte(flag.letter)
		}
	}
	b.WriteString("=" + s.File)
	if s.Backing != "" || s.Serial != "" {
		b.WriteString("," + s.Backing)
	}
	if s.Serial != "" {
		b.WriteString("," + s.Serial)
	}
	return b.String()
}

// Parse reads a specification: unit is what stands between "ubd" and "=", spec what
// stands behind it. Its errors are driver errors in the words of real kernels.
func Parse(unit, spec string) (Spec, error) {
	n, flags, err := parseUnit(unit)
	if err != nil {
		return Spec{}, err
	}
	if n >= Units {
		return Spec{}, driver.Errorf(driver.Invalid, "Device number out of range")
	}
	s := Spec{Unit: n}
	for _, flag := range []byte(flags) {
		switch flag {
		case 'r':
			s.ReadOnly = true
		case 's':
			s.Sync = true
		case 'c':
			s.Shared = true
		case 'd':
			s.NoCOW = true
		case 't':
			s.NoTrim = true
		default:
			return Spec{}, driver.Errorf(driver.Invalid, "Expected '=' or flag letter (r, s, c, t or d)")
		}
	}
	// Either separator ends either file, so neither may be in a name.
	parts := strings.Split(strings.ReplaceAll(spec, ":", ","), ",")
	if len(parts) > 3 {
		return Spec{}, driver.Errorf(driver.Invalid, "ubd%s=%s: more than two files and a serial number", unit, spec)
	}
	parts = append(parts, "", "")
	s.File, s.Backing, s.Serial = parts[0], parts[1], parts[2]
	if s.File == "" {
		return Spec{}, driver.Errorf(driver.Invalid, "ubd%s=%s: no file", unit, spec)
	}
	if strings.ContainsRune(spec, 0) {
		return Spec{}, driver.Errorf(driver.Invalid, "ubd%s=%q: a NUL in it", unit, spec)
	}
	if s.Backing != "" && s.NoCOW {
		return Spec{}, driver.Errorf(driver.Invalid, "Can't specify both 'd' and a cow file")
	}
	return s, nil
}

// parseUnit reads the number or letter of a unit. What follows it is the flags.
func parseUnit(unit string) (n int, flags string, err error) {
	digits := len(unit) - len(strings.TrimLeft(unit, "0123456789"))
	if digits > 0 {
		n, err := strconv.ParseUint(unit[:digits], 10, 16)
		if err != nil {
			return 0, "", driver.Errorf(driver.Unparsed, "Couldn't parse device number")
		}
		return int(n), unit[digits:], nil
	}
	if unit != "" && unit[0] >= 'a'+Units && unit[0] <= 'z' {
		return Units, unit[1:], nil // out of range, as its callers say
	}
	if unit == "" || unit[0] < 'a' || unit[0] > 'z' {
		return 0, "", driver.Errorf(driver.Unparsed, "Couldn't parse device number")
	}
	return int(unit[0] - 'a'), unit[1:], nil
}

// unitNumber reads a unit that no flags follow.
func unitNumber(unit string) (int, error) {
	n, flags, err := parseUnit(unit)
	if err != nil {
		return 0, err
	}
	if flags != "" {
		return 0, driver.Errorf(driver.Unparsed, "Couldn't parse device number")
	}
	if n >= Units {
		return 0, driver.Errorf(driver.Unparsed, "Invalid device number - must be between 0 and %d", Units-1)
	}
	return n, nil
}
