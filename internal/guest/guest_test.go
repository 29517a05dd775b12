package guest

import (
	"strings"
	"testing"
	"time"
)

// The harness itself, against a shell of the host.
func TestShellOnAPTY(t *testing.T) {
	m := Start(t, "/bin/bash", "--norc", "--noprofile", "-i")
	m.Expect(10*time.Second, `[#$] $`)
	m.Quiet()
	if out := m.Sh(10*time.Second, "echo one; echo two"); out != "one\ntwo\n" {
		t.Errorf("Sh gave %q", out)
	}
	if _, code := m.Try(10*time.Second, "(exit 7)"); code != 7 {
		t.Errorf("Try gave status %d, want 7", code)
	}
	m.Resize(50, 90)
	if out := m.Sh(10*time.Second, "stty size"); out != "50 90\n" {
		t.Errorf("the window is %q", out)
	}
	m.Type("exit 3\n")
	if code := m.Wait(10 * time.Second); code != 3 {
		t.Errorf("exit status %d, want 3", code)
	}
}

func TestOutputNamesTheSignal(t *testing.T) {
	out, code := Output(t, 10*time.Second, "/bin/sh", "-c", "echo words; kill -ABRT $$")
	if code != 134 || strings.TrimSpace(out) != "words" {
		t.Errorf("got %q and status %d, want words and 134", out, code)
	}
}
