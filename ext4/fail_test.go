package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

// failing is a recorder whose writes fail from some write on.
type failing struct {
	*recorder
	left int
	err  error
}

func (d *failing) WriteAt(p []byte, off int64) (int, error) {
	if d.left--; d.left < 0 {
		return 0, d.err
	}
	return d.recorder.WriteAt(p, off)
}

// A device that fails at some write: the error reaches the caller, no change is accepted
// after a failed commit, and what was stable is there after a replay.
func TestDeviceFails(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	image := makeImage(t, 24<<20, "-t", "ext4", "-b", "4096")
	base := must(os.ReadFile(image))
	r := rand.New(rand.NewPCG(11, 1))
	for round := range rounds {
		no := []unix.Errno{unix.EIO, unix.ENOSPC}[round%2]
		d := &failing{recorder: &recorder{data: bytes.Clone(base)}, left: r.IntN(400), err: no}
		stable, err := failWork(d)
		if err == nil {
			t.Fatalf("round %d: no error came through", round)
		}
		if !unixIs(err, no) && !unixIs(err, unix.EROFS) && !unixIs(err, unix.EIO) {
			t.Fatalf("round %d: error %v", round, err)
		}
		data, _ := replayTo(base, d.log, r, false)
		crashCheck(t, data, stable, fmt.Sprintf("round %d", round), false)
	}
}

// When a commit fails nothing more is changed, whatever errors= says, and the machine is
// told under errors=panic.
func TestDeviceFailsUnderEveryPolicy(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096")
	base := must(os.ReadFile(image))
	for _, policy := range []ErrorPolicy{ErrorsContinue, ErrorsReadOnly, ErrorsPanic} {
		var panicked error
		d := &failing{recorder: &recorder{data: bytes.Clone(base)}, left: 1 << 20, err: unix.EIO}
		fs := must(Open(d, Options{Errors: policy, Panic: func(err error) { panicked = err }}))
		root := must(fs.Root())
		check(t, must(root.Create("a", regular)).Put())
		d.left = 0
		wantErr(t, fs.Sync(), unix.EIO)
		if !fs.ReadOnly() || !fs.Damaged() || (panicked != nil) != (policy == ErrorsPanic) {
			t.Errorf("%v: read-only %v, damaged %v, panic %v", policy, fs.ReadOnly(), fs.Damaged(), panicked)
		}
		_, err := root.Create("b", regular)
		wantErr(t, err, unix.EROFS)
		check(t, root.Put())
		_ = fs.Close()
	}
}

func failWork(d Device) (stable []synced, err error) {
	fs, err := Open(d, Options{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := fs.Close(); err == nil {
			err = e
		}
	}()
	root, err := fs.Root()
	if err != nil {
		return nil, err
	}
	defer root.Put()
	dir, err := root.Create("dir", NewInode{Mode: format.ModeDir | 0o755})
	if err != nil {
		return nil, err
	}
	defer dir.Put()
	for i := range 200 {
		name := fmt.Sprint(i)
		n, err := dir.Create(name, regular)
		if err != nil {
			return stable, err
		}
		p := bytes.Repeat([]byte{byte(i)}, 5000)
		if _, err = n.WriteAt(p, 0); err == nil {
			err = n.Sync(false)
		}
		if e := n.Put(); err == nil {
			err = e
		}
		if err != nil {
			return stable, err
		}
		stable = append(stable, synced{name, p})
	}
	return stable, nil
}

// A disk of 1 TiB opens at once, takes little memory, and is written to.
func TestHugeDisk(t *testing.T) {
	image := makeImage(t, 1<<40, "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard", "-i", "4194304")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	fs := openFS(t, image, Options{})
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if grew := int64(after.TotalAlloc - before.TotalAlloc); grew > 20<<20 {
		t.Errorf("opening took %d bytes", grew)
	}
	t.Logf("opened in %v", took)
	root := must(fs.Root())
	for i := range 30 {
		d := must(root.Create(fmt.Sprint(i), NewInode{Mode: format.ModeDir | 0o755}))
		n := must(d.Create("f", regular))
		must(n.WriteAt(bytes.Repeat([]byte{byte(i)}, 300_000), int64(i)<<33))
		check(t, n.Put())
		check(t, d.Put())
	}
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// Damage is reported by name, counted in the superblock, and met as errors= says.
func TestDamagedIsReported(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	d := must(root.Create("d", NewInode{Mode: format.ModeDir | 0o755}))
	m := must(d.mapBlock(0))
	check(t, d.Put())
	check(t, root.Put())
	closeFS(t, fs)
	f := openDevice(t, image)
	must(f.WriteAt([]byte{0xFF, 0xFF}, int64(m.disk)*4096+4))
	for _, policy := range []ErrorPolicy{ErrorsContinue, ErrorsReadOnly, ErrorsPanic} {
		var panicked error
		fs := openFS(t, image, Options{Errors: policy, Panic: func(err error) { panicked = err }})
		root := must(fs.Root())
		d := must(root.Lookup("d"))
		_, err := d.Lookup("x")
		wantErr(t, err, unix.EIO)
		wantErr(t, err, unix.EUCLEAN)
		if fs.ReadOnly() != (policy != ErrorsContinue) || fs.Damaged() != fs.ReadOnly() || (panicked != nil) != (policy == ErrorsPanic) {
			t.Errorf("%v: read-only %v, panic %v", policy, fs.ReadOnly(), panicked)
		}
		_, err = root.Create(fmt.Sprint(policy), regular)
		if (err == nil) != (policy == ErrorsContinue) {
			t.Errorf("%v: create gives %v", policy, err)
		}
		_ = fs.Close()
		fs = openFS(t, image, Options{ReadOnly: true})
		if i := fs.Info(); i.ErrorCount == 0 {
			t.Errorf("%v: the superblock does not tell", policy)
		}
	}
}
