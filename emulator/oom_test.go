package emulator_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// A process that wants more than mem= is killed in Linux's words, by the way in which it
// got the memory, and the machine lives.
func TestOutOfMemory(t *testing.T) {
	rd := "initrd=" + initrd(t)
	for name, test := range map[string]struct {
		words []string
		want  []string
	}{
		"a fault": {[]string{"mount:proc,/proc,proc", "spawn:grow:40", "spawn:grow:500", "cat:/proc/meminfo", "spawn:grow:40"},
			[]string{"grown by 40\n", "exe invoked oom-killer: ", "Out of memory: Killed process ", "spawn grow:500: signal: killed", "MemTotal:          65536 kB\n"}},
		"a system call": {[]string{"mount:proc,/proc,proc", "spawn:fill:150", "say:alive"},
			[]string{"Out of memory: Killed process ", "spawn fill:150: signal: killed", "alive\n"}},
		"nobody to kill": {[]string{"grow:150"},
			[]string{"Out of memory and no killable processes...", "Kernel panic - not syncing: System is deadlocked on memory"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := boot(t, append([]string{rd}, test.words...)...)
			if panics := strings.Contains(test.want[len(test.want)-1], "panic"); (status == 134) != panics {
				t.Errorf("exit status %d", status)
			}
			want(t, out, test.want...)
		})
	}
}

// The largest process goes, not the one that asks; oom_score_adj is honoured.
func TestOutOfMemoryVictim(t *testing.T) {
	out, status := boot(t, "initrd="+initrd(t), "mount:proc,/proc,proc", "begin:grow:30+sleep:60s", "spawn:write:/proc/self/oom_score_adj,-1000+grow:45", "say:alive")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	want(t, out, "Out of memory: Killed process ", "spawn write:/proc/self/oom_score_adj,-1000+grow:45: <nil>", "alive\n")
	if n := strings.Count(out, "Killed process"); n != 1 {
		t.Errorf("%d processes were killed\n%s", n, out)
	}
}

// A filesystem that has no more room for the guest's memory is an end of memory, not a
// bus error.
func TestMemoryFileFull(t *testing.T) {
	oracle.NeedsRoot(t)
	linux := guest.Binary(t, "linux")
	dir := tmpfs(t, "size=80M")
	t.Setenv("TMPDIR", dir)
	m := guest.Start(t, linux, "mem=64M", "uml_dir="+t.TempDir(), "initrd="+initrd(t), "con0=fd:0,fd:1", "mount:proc,/proc,proc", "say:ready", "key",
		"spawn:grow:60", "say:alive")
	m.Expect(limit, "ready")
	if err := os.WriteFile(dir+"/filler", make([]byte, 50<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Type("\n")
	m.Expect(limit, "Out of memory: Killed process ")
	m.Expect(limit, "alive")
	if status := m.Wait(limit); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// The management console tells and changes how much memory there is.
func TestMemoryDriver(t *testing.T) {
	dir := t.TempDir()
	m := guest.Start(t, guest.Binary(t, "linux"), "mem=64M", "uml_dir="+dir, "umid=T", "initrd="+initrd(t), "con0=null,fd:1", "forever")
	m.Expect(limit, "waiting")
	for _, test := range []struct {
		command string
		code    int32
		pattern string
	}{
		{"config mem", 0, "^67108864$"},
		{"config mem=-16M", 0, "^$"},
		{"config mem", 0, "^50331648$"},
		{"proc meminfo", 0, "MemTotal: +49152 kB\n"},
		{"config mem=+4M", 0, "^$"},
		{"config mem", 0, "^54525952$"},
		{"config mem=1", -22, `^Expected increment to start with '-' or '\+'$`},
		{"config mem=-1G", -22, "^mem would be -1019215872 bytes: between 4194304 and "},
		{"config mem=+lots", -22, `^mem: "lots" is not an amount of memory`},
		{"config mem=+99999999G", -22, "is not an amount of memory"},
		{"remove mem", -16, "^Memory cannot be removed"},
		{"config mem1", 1, "^Bad configuration option$"},
	} {
		code, text := ask(t, dir+"/T/mconsole", test.command)
		if code != test.code || !regexp.MustCompile(test.pattern).MatchString(text) {
			t.Errorf("%s: %d %q; want %d %s", test.command, code, text, test.code, test.pattern)
		}
	}
	ask(t, dir+"/T/mconsole", "halt")
	m.Wait(limit)
}
