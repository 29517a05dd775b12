package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parseSize reads a number of bytes: digits, then perhaps K, M, G or T (powers of
// 1024, either case, "iB" and "B" may follow). A disk has whole sectors.
func parseSize(text string) (int64, error) {
	n, err := parseBytes(text)
	if err != nil {
		return 0, err
	}
	switch {
	case n == 0:
		return 0, errors.New("a disk has at least one sector")
	case n%512 != 0:
		return 0, fmt.Errorf("a disk has whole sectors of 512 bytes: %d would do", min(n, math.MaxInt64-512)/512*512+512)
	}
	return n, nil
}

func parseBytes(text string) (int64, error) {
	digits := strings.TrimRight(text, "kKmMgGtTiIbB")
	unit := strings.ToUpper(text[len(digits):])
	shift := map[string]uint{"": 0, "B": 0, "K": 10, "KB": 10, "KIB": 10, "M": 20, "MB": 20, "MIB": 20,
		"G": 30, "GB": 30, "GIB": 30, "T": 40, "TB": 40, "TIB": 40}
	by, known := shift[unit]
	n, err := strconv.ParseUint(digits, 10, 63)
	if errors.Is(err, strconv.ErrRange) || err == nil && known && n > math.MaxInt64>>by {
		return 0, errors.New("too large")
	}
	if err != nil || !known {
		return 0, errors.New("a size is a number of bytes, or one with K, M, G or T behind it")
	}
	return int64(n << by), nil
}

// sizeText is a size in at most 6 characters and to three digits: "16G", "1.25M", "512".
func sizeText(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	value, unit := float64(n), ""
	for _, u := range "KMGTPE" {
		if value < 1023.5 { // which would round up to 1024
			break
		}
		value, unit = value/1024, string(u)
	}
	digits := 2
	switch {
	case value >= 99.95:
		digits = 0
	case value >= 9.995:
		digits = 1
	}
	text := strconv.FormatFloat(value, 'f', digits, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + unit
}

// allocated is how many bytes a file takes on its host.
func allocated(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}
