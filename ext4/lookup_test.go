package ext4

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLookupAbsent(t *testing.T) {
	fs, err := Open(openDevice(t, makeImage(t, 16<<20, "-t", "ext4")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	root := must(fs.Root())
	defer root.Put()
	_, err = root.Lookup("a\nname")
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want ENOENT", err)
	}
	if want := `ext4: lookup "a\nname": no such file or directory`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
