//go:build amd64

package platform

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnmapWaits holds that what is unmapped is gone when a thread runs, and when one does.
func TestUnmapWaits(t *testing.T) {
	g := newGuest(t, start(t), 0x0f, 0x05)
	p := g.p
	mapped := func() bool { return strings.Contains(mappings(t, p.pid), "00500000-") }
	again := func() {
		t.Helper()
		if _, err := p.system(unix.SYS_MMAP, [6]uint64{stackAt, pageSize, unix.PROT_READ, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED, 1<<64 - 1}); err != nil {
			t.Fatal(err)
		}
		if !mapped() {
			t.Fatal("the mapping is not there")
		}
	}

	p.Unmap(stackAt, pageSize)
	if mapped() {
		t.Error("with no task awake the change waits")
	}
	p.called.Add(1)
	again()
	p.Unmap(stackAt, pageSize)
	p.settle()
	if mapped() {
		t.Error("the task that sleeps leaves a change")
	}
	again()
	p.Unmap(stackAt, pageSize)
	if !mapped() {
		t.Error("with no thread running the change is made at once")
	}
	if err := p.enter(); err != nil {
		t.Fatal(err)
	}
	if mapped() {
		t.Error("a thread runs in what was unmapped")
	}
	again()
	p.Unmap(stackAt, pageSize)
	if mapped() {
		t.Error("with a thread running the change waits")
	}
	p.left()

	// What takes its place makes it one change; what does not comes behind it.
	p.Unmap(stackAt, pageSize)
	again()
	if p.requests.count != 1 {
		t.Errorf("%d changes", p.requests.count)
	}
	p.Unmap(stackAt-pageSize, 2*pageSize)
	again()
	if p.requests.count != 2 {
		t.Errorf("%d changes", p.requests.count)
	}

	// More than wait.
	for range 3 * maxChanges {
		p.Unmap(stackAt, pageSize)
	}
	if mapped() || len(p.waiting) >= maxChanges {
		t.Errorf("%d wait", len(p.waiting))
	}

	// One that fails, behind one that does not.
	p.Unmap(stackAt, pageSize)
	if _, err := p.system(unix.SYS_MMAP, [6]uint64{codeAt + 1, pageSize, unix.PROT_READ, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED, 1<<64 - 1}); err != unix.EINVAL {
		t.Errorf("a mapping at no page: %v", err)
	}
	if p.broken.Load() {
		t.Error("a mapping that failed ended the process")
	}
	again()
	p.waiting = append(p.waiting, change{unix.SYS_MUNMAP, [6]uint64{codeAt + 1, pageSize}})
	p.wait.Store(true)
	if _, err := p.system(unix.SYS_MUNMAP, [6]uint64{stackAt, pageSize}); err == nil || !p.broken.Load() {
		t.Errorf("an unmapping that failed: %v, and the process goes on", err)
	}
}
