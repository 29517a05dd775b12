package emulator_test

import "testing"

// TestSession holds that a session is not hung up because one of its processes is stopped
// when another ends or leaves its group. It fails when an upgrade of gVisor breaks
// reach.KeepSession.
func TestSession(t *testing.T) {
	out, status := boot(t, "initrd="+shell(t,
		`setsid sh -c 'sleep 1000 & kill -STOP $!; sleep 0.2; /bin/true; (/bin/true); setsid /bin/true; echo ended; kill -9 $!'`), "con0=null,fd:1")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "\nended\n")
}
