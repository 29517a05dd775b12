package driver

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		code Code
		text string
	}{
		{"none", nil, 0, ""},
		{"refusal", Errorf(Busy, "Device is already configured"), -16, "Device is already configured"},
		{"wrapped refusal", fmt.Errorf("ubd1: %w", Errorf(NoDevice, "Device doesn't exist")), -19, "Device doesn't exist"},
		{"errno", &os.PathError{Op: "open", Path: "f", Err: unix.ENOENT}, -2, "open f: no such file or directory"},
		{"other", errors.New("odd"), 1, "odd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, text := Status(test.err)
			if code != test.code || text != test.text {
				t.Errorf("Status = %d, %q; want %d, %q", code, text, test.code, test.text)
			}
		})
	}
}

func TestErrorfKeepsCause(t *testing.T) {
	if err := Errorf(NotFound, "no image: %w", unix.ENOENT); !errors.Is(err, unix.ENOENT) {
		t.Errorf("errors.Is(%v, ENOENT) = false", err)
	}
}
