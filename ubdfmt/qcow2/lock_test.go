package qcow2

import (
	"bufio"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// Readers are beside each other, ours and QEMU's; a writer is beside none of them.
func TestLocks(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	oracle.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
	one, two := mustOpen(t, image), mustOpen(t, image)
	oracle.Run(t, "qemu-img", "compare", "-q", image, image)
	if out, err := exec.Command(oracle.Tool(t, "qemu-io"), "-f", "qcow2", "-c", "write 0 512", image).CombinedOutput(); err == nil || !strings.Contains(string(out), "lock") {
		t.Errorf("QEMU writes beside a reader: %v\n%s", err, out)
	}
	one.Close()
	two.Close()

	writer := exec.Command(oracle.Tool(t, "qemu-io"), "-f", "qcow2", image)
	in, err := writer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	// It answers when it has the image.
	if _, err := io.WriteString(in, "length\n"); err != nil {
		t.Fatal(err)
	}
	answer := bufio.NewReader(out)
	if line, err := answer.ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = Open(image, ubdfmt.Options{})
	var locked *ubdfmt.LockedError
	if !errors.As(err, &locked) {
		t.Errorf("beside a writer: %v", err)
	}
	if im, err := Open(image, ubdfmt.Options{Shared: true}); err != nil {
		t.Errorf("without locks, beside a writer: %v", err)
	} else {
		im.Close()
	}
	in.Close()
	io.Copy(io.Discard, answer)
	if err := writer.Wait(); err != nil {
		t.Error(err)
	}
	mustOpen(t, image)
}
