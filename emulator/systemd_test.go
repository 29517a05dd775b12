package emulator_test

import "testing"

// TestLockWithoutPosition holds that a socket is locked from its position on, which
// counts as 0: services of systemd that share a namespace take turns so.
func TestLockWithoutPosition(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "locksocket")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "locksocket <nil>, <nil>, found 1\n", "unlocked socket: <nil>, found 2\n", "seek in a socket: illegal seek\n")
}

// TestNoKeyrings holds that all of keyrings is missing, not a part: systemd mounts
// nothing when it can make a keyring and not link it.
func TestNoKeyrings(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "call:250,1,0", "call:250,8,0xfffffffc,0xfffffffd", "call:248,0,0,0,0,0", "call:249,0,0,0,0")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "call 250,1,0: 38\n", "call 250,8,0xfffffffc,0xfffffffd: 38\n", "call 248,0,0,0,0,0: 38\n", "call 249,0,0,0,0: 38\n")
}

// TestPIDMax holds which numbers pid_max takes: those that stay true.
func TestPIDMax(t *testing.T) {
	const name = "/proc/sys/kernel/pid_max"
	out, status := boot(t, "initrd="+initrd(t), "mount:proc,/proc,proc", "cat:"+name,
		"write:"+name+",4194304", "write:"+name+",4194305", "write:"+name+",1000", "cat:"+name)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "== "+name+"\n65536\n", "1000: write "+name+": invalid argument", "4194305: write "+name+": invalid argument",
		"== "+name+"\n4194304\n")
}
