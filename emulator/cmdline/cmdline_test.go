package cmdline

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

var update = flag.Bool("update", false, "write the options part of man/linux.1")

func TestMemory(t *testing.T) {
	for _, test := range []struct {
		word string
		want int64
	}{
		{"mem=64M", 64 << 20}, {"mem=64m", 64 << 20}, {"mem=65536K", 64 << 20}, {"mem=65536k", 64 << 20},
		{"mem=1G", 1 << 30}, {"mem=1g", 1 << 30}, {"mem=67108864", 64 << 20}, {"mem=67108865", 64 << 20},
		{"mem=\"64M\"", 64 << 20}, {"mem=4M", 4 << 20},
	} {
		c, err := Parse([]string{test.word})
		if err != nil || c.Memory != test.want {
			t.Errorf("%s: %v, %v; want %d", test.word, c, err, test.want)
		}
	}
	for _, word := range []string{"mem=", "mem=M", "mem=-1M", "mem=1T", "mem=64MB", "mem=0x40M", "mem= 64M", "mem=1M", "mem=0", "mem=99999999999G", "mem=9223372036854775808", "mem=lots"} {
		_, err := Parse([]string{word})
		var e *Error
		if !errors.As(err, &e) || e.Word != word || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want an *Error of one line", word, err)
		}
	}
}

func TestParse(t *testing.T) {
	base := func(change func(*Config)) Config {
		c := Config{Memory: DefaultMemory, CPUs: 1, LogLevel: 7, Intercept: "auto", Platform: "auto", Env: []string{"HOME=/", "TERM=linux"}}
		change(&c)
		return c
	}
	ubd := func(unit, spec, word string) Setting { return Setting{"ubd", unit, spec, word} }
	con := func(unit, spec, word string) Setting { return Setting{"con", unit, spec, word} }
	for _, test := range []struct {
		line string
		want Config
	}{
		{"", base(func(c *Config) {})},
		{"ubd0=cow,img root=/dev/ubda rw", base(func(c *Config) {
			c.Settings = []Setting{ubd("0", "cow,img", "ubd0=cow,img")}
			c.Root, c.RootWrite = "/dev/ubda", true
		})},
		{"ubdar=img ubd=sync ubd15rsc=x", base(func(c *Config) {
			c.Settings = []Setting{ubd("ar", "img", "ubdar=img"), ubd("", "sync", "ubd=sync"), ubd("15rsc", "x", "ubd15rsc=x")}
		})},
		{"rw ro", base(func(c *Config) {})},
		{"con=null con0=null,fd:2 con1=fd:0,fd:1", base(func(c *Config) {
			c.Settings = []Setting{con("", "null", "con=null"), con("0", "null,fd:2", "con0=null,fd:2"), con("1", "fd:0,fd:1", "con1=fd:0,fd:1")}
		})},
		{"console=tty1,115200", base(func(c *Config) { c.Console = "tty1" })},
		{"init=/bin/sh single FOO=bar TERM=vt100", base(func(c *Config) {
			c.Init, c.Args = "/bin/sh", []string{"single"}
			c.Env = []string{"HOME=/", "TERM=vt100", "FOO=bar"}
			c.Unknown = []string{"single", "FOO=bar", "TERM=vt100"}
		})},
		{"rootwait=5", base(func(c *Config) { c.RootWait, c.RootWaitLimit = true, 5 })},
		{"rootwait=5 rootwait", base(func(c *Config) { c.RootWait = true })},
		{"initrd=a noinitrd", base(func(c *Config) {})},
		{"reboot audit nokaslr=x", base(func(c *Config) {
			c.Args, c.Env = []string{"reboot", "audit"}, append(c.Env, "nokaslr=x")
			c.Unknown = []string{"reboot", "audit", "nokaslr=x"}
		})},
		{"single init=/bin/sh 3", base(func(c *Config) {
			c.Init, c.Args, c.Unknown = "/bin/sh", []string{"3"}, []string{"single", "3"}
		})},
		{"FOO=a FOO=b -- quiet mem=1G", base(func(c *Config) {
			c.Env = append(c.Env, "FOO=b")
			c.Args = []string{"quiet", "mem=1G"}
			c.Unknown = []string{"FOO=a", "FOO=b"}
		})},
		{"systemd.unit=rescue.target", base(func(c *Config) {})},
		{"dtb=x strace=all:read strace.file=y hwrng=/dev/urandom,1K ignore_loglevel", base(func(c *Config) {
			c.DTB, c.Strace, c.StraceFile, c.EveryMessage = "x", "all:read", "y", true
			c.Settings = []Setting{{"hwrng", "", "/dev/urandom,1K", "hwrng=/dev/urandom,1K"}}
		})},
		{"sysctl.vm.swappiness=1 sysctl/net/a.b=\"2\"", base(func(c *Config) {
			c.Sysctls = []Sysctl{{"vm.swappiness", "1"}, {"net/a.b", "2"}}
		})},
		{"quiet", base(func(c *Config) { c.LogLevel = 4 })},
		{"debug", base(func(c *Config) { c.LogLevel = 10 })},
		{"loglevel=3", base(func(c *Config) { c.LogLevel = 3 })},
		{"panic=-1 noreboot", base(func(c *Config) { c.PanicTimeout, c.NoReboot = -1, true })},
		{"rootfstype=ext4 rootflags=noatime uml-dir=/x umid=TEST", base(func(c *Config) {
			c.RootType, c.RootFlags, c.UMLDir, c.UMID = "ext4", "noatime", "/x", "TEST"
		})},
		{"ncpus=2 seccomp=off mconsole=notify:/s", base(func(c *Config) { c.CPUs, c.Intercept, c.Notify = 2, "off", "/s" })},
		{"platform=own", base(func(c *Config) { c.Platform = "own" })},
		{"platform=kvm", base(func(c *Config) { c.Platform = "kvm" })},
		{"ext4.cache=256k mem=1G", base(func(c *Config) { c.Memory, c.Ext4Cache = 1<<30, 256<<10 })},
		{"printk.time=1", base(func(c *Config) { c.PrintTime = true })},
		{"--help", base(func(c *Config) { c.Action = Help })},
		{"--version", base(func(c *Config) { c.Action = Version })},
		{"initrd=x.gz rdinit=/linuxrc", base(func(c *Config) { c.Initrd, c.RdInit = "x.gz", "/linuxrc" })},
	} {
		words := strings.Fields(test.line)
		got, err := Parse(words)
		if err != nil {
			t.Errorf("%q: %v", test.line, err)
			continue
		}
		got.Words = nil
		if !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%q:\n got %+v\nwant %+v", test.line, *got, test.want)
		}
	}
}

// The cache of an ext4 filesystem is an eighth of the memory, unless the line says more
// or less.
func TestExt4Cache(t *testing.T) {
	for line, want := range map[string]int64{
		"":                                 DefaultMemory / 8,
		"mem=1G":                           128 << 20,
		"ext4.cache=4M mem=1G":             4 << 20,
		"mem=256M ext4.cache=2G":           2 << 30,
		"ext4.cache=4M ext4.cache=256K":    256 << 10,
		"mem=1G mem=512M ubd0=x root=/dev": 64 << 20,
	} {
		c, err := Parse(strings.Fields(line))
		if err != nil {
			t.Errorf("%q: %v", line, err)
		} else if got := c.Ext4CacheBytes(); got != want {
			t.Errorf("%q: %d bytes, want %d", line, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, word := range []string{"ext4.cache=0", "ext4.cache=255K", "ext4.cache=much", "ncpus=0", "ncpus=x", "root=", "hostfs=", "hostfs=,append", "seccomp=maybe", "platform=", "platform=xen", "loglevel=16", "panic=soon", "conx=null", "time-travel", "time-travel=inf-cpu", "mconsole=x", "rootdelay=-1", "rootwait=0", "rootwait=x", "printk.time=2", "hostname=" + strings.Repeat("x", 65)} {
		_, err := Parse([]string{word})
		var e *Error
		if !errors.As(err, &e) || e.Word != word {
			t.Errorf("%s: error %v, want an *Error", word, err)
		}
	}
}

// TestNothingSwallowed holds that a word without an effect leaves a line in the log.
func TestNothingSwallowed(t *testing.T) {
	for _, word := range []string{"vec0=transport=tap,ifname=tap0", "ip=dhcp", "sysctl.vm.swappiness", "sysctl.=1", "sysctl.a=\"\"",
		"audit=0", "mitigations=off", "net.ifnames=0", "usbcore.x=1", "mod.flag", "isolcpus=1", "nokaslr", "no_hash_pointers", "noreplace_smp", "skas3", "umn=1", "quiet.x", "reboot=b", "ssl-non-raw",
		"aio=2.4", "fake_ide", "nosysemu", "mode=tt", "skas0", "elevator=noop", "udb0=disk.img"} {
		c, err := Parse([]string{word})
		if err != nil || len(c.Notes) != 1 || !strings.HasPrefix(c.Notes[0], word) {
			t.Errorf("%s: %+v, %v; want one note that begins with the word", word, c, err)
		} else if len(c.Unknown) != 0 || len(c.Args) != 0 {
			t.Errorf("%s went to init", word)
		}
	}
}

func TestHostDir(t *testing.T) {
	for word, want := range map[string]Config{
		"hostfs=/x":             {HostDir: "/x"},
		"hostfs=/x,append":      {HostDir: "/x", HostAppend: true},
		"hostfs=/a,b":           {HostDir: "/a,b"},
		"hostfs=/append,append": {HostDir: "/append", HostAppend: true},
	} {
		c, err := Parse([]string{"hostfs=/earlier,append", word})
		if err != nil || c.HostDir != want.HostDir || c.HostAppend != want.HostAppend || len(c.Unknown) != 0 {
			t.Errorf("%s: %+v, %v", word, c, err)
		}
	}
}

func TestString(t *testing.T) {
	c, err := Parse([]string{"mem=64M", "init=/bin/sh", "A=b c", "--", "-c", "echo hi"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.String(), `mem=64M init=/bin/sh A="b c" console=tty0 -- -c "echo hi"`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

// TestTable holds that an option either does something or says in the log that it does
// not, and that help tells of each.
func TestTable(t *testing.T) {
	usage := Usage()
	names := make(map[string]bool)
	for _, o := range Options {
		if names[o.Name] && o.Name != "rootwait" { // alone, and with a value
			t.Errorf("%s is twice in the table", o.Name)
		}
		names[o.Name] = true
		if (o.apply == nil) != (o.Note != "") {
			t.Errorf("%s: an option has either an effect or a note", o.Name)
		}
		if o.Text == "" || !strings.HasSuffix(o.Text, ".") || !strings.Contains(usage, o.Show+"\n") {
			t.Errorf("%s is not in the help", o.Name)
		}
		if !strings.HasPrefix(o.Show, strings.TrimSuffix(o.Name, ".")) {
			t.Errorf("%s is shown as %s", o.Name, o.Show)
		}
	}
	for _, line := range strings.Split(usage, "\n") {
		if len([]rune(line)) > 100 {
			t.Errorf("help has a line of %d columns: %s", len([]rune(line)), line)
		}
	}
}

// TestManual holds that linux(1) documents the options of the table, all of them and
// no others.
func TestManual(t *testing.T) {
	name := filepath.Join(oracle.Root(t), "man", "linux.1")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), RoffBegin)
	options, tail, ok2 := strings.Cut(rest, RoffEnd)
	if !ok || !ok2 {
		t.Fatalf("%s: the lines around the options are missing", name)
	}
	if *update {
		if err := os.WriteFile(name, []byte(head+RoffBegin+Roff()+RoffEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if options != Roff() {
		t.Errorf("the options in %s are not those of the table: go test ./emulator/cmdline -update", name)
	}
	out, err := exec.Command(oracle.Tool(t, "mandoc"), "-Tlint", "-W", "warning", name).CombinedOutput()
	if err != nil || len(out) != 0 {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"mem=64M\x00ubd0=a,b\x00--\x00x", "conN=\x00con7=x\x00vec0:", "a.b=c\x00=\x00==\x00\"", "sysctl.=\x00sysctl/a=\"\x00audit\x00console=\x00--", "udb\x00--help"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, "\x00")
		c, err := Parse(words)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%q: error %v is no *Error", words, err)
			}
			return
		}
		for _, s := range c.Sysctls {
			if s.Name == "" || s.Value == "" {
				t.Fatalf("%q: %+v", words, c.Sysctls)
			}
		}
		if c.Memory < MinMemory || c.Memory%4096 != 0 || c.CPUs < 1 {
			t.Fatalf("%q: %+v", words, c)
		}
		_ = c.String()
		for _, e := range c.Env {
			if !strings.Contains(e, "=") {
				t.Fatalf("%q: %q in the environment", words, e)
			}
		}
	})
}
