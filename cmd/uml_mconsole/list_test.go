package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/mconsole"
)

// socketOf makes a machine's directory, with a socket that nobody reads while it is open.
func socketOf(t *testing.T, dir string, pid int) *net.UnixConn {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Appendf(nil, "%d\n", pid), 0o644); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "mconsole"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestList holds that --list tells machines that answer from those that do not and from
// directories that were left, wherever they are, and shows nothing else.
func TestList(t *testing.T) {
	// A short name: of a socket that is found by its address alone.
	far, err := os.MkdirTemp("", "ml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(far) })
	m := startMachine(t, "answers", func(command string) [][]byte { return packets(0, "Linux (none)\x1b 6.18.0") })
	below := filepath.Join(m.home, ".uml")
	t.Chdir(below) // the address is as long as a socket's may be
	silent := socketOf(t, "silent", os.Getpid())
	defer silent.Close()
	const nobody = 1 << 22
	// Closing leaves the name.
	socketOf(t, "stale", nobody).Close()
	if err := os.Mkdir("begins", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("begins/pid", fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("no-machine", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("answers", "link"); err != nil {
		t.Fatal(err)
	}
	elsewhere := socketOf(t, filepath.Join(far, "elsewhere"), 77)
	defer elsewhere.Close()
	if os.Geteuid() == 0 {
		socketOf(t, "other", nobody).Close()
		if err := os.Chown("other", 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}

	status, stdout, stderr := call(t, "", "--timeout", "0.3", "--list", "--json")
	if status != 0 || stderr != "" {
		t.Fatalf("status %d, %q", status, stderr)
	}
	var all []mconsole.Machine
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	states := map[string]mconsole.State{}
	for _, machine := range all {
		// Machines of others on this host are listed as well.
		if filepath.Dir(machine.Directory) == below || filepath.Dir(machine.Directory) == far {
			states[machine.UMID] = machine.State
			if machine.Socket != filepath.Join(machine.Directory, "mconsole") || (machine.Version != "") != (machine.State == mconsole.Running) {
				t.Errorf("%+v", machine)
			}
		}
	}
	want := map[string]mconsole.State{"answers": mconsole.Running, "silent": mconsole.Silent, "stale": mconsole.Stale, "begins": mconsole.Silent, "elsewhere": mconsole.Silent}
	if fmt.Sprint(states) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", states, want)
	}
	_, stdout, _ = call(t, "", "--timeout", "0.3", "--list")
	for _, line := range []string{
		`UMID +PID +STATE +DIRECTORY +VERSION`,
		`answers +- +running +` + regexp.QuoteMeta(below) + `/answers +Linux \(none\)\? 6\.18\.0`,
		fmt.Sprintf(`silent +%d +silent +%s/silent`, os.Getpid(), regexp.QuoteMeta(below)),
		fmt.Sprintf(`stale +%d +stale +%s/stale`, nobody, regexp.QuoteMeta(below)),
		fmt.Sprintf(`elsewhere +77 +silent +%s/elsewhere`, regexp.QuoteMeta(far)),
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(stdout) {
			t.Errorf("no line %s in\n%s", line, stdout)
		}
	}
}

// TestComplete holds what the prompt and the shells are told.
func TestComplete(t *testing.T) {
	m := startMachine(t, "debian", answer)
	t.Chdir(m.home)
	for _, f := range []string{"disk.img", "base.img"} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("images", 0o755); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"uml_mconsole deb":                                "debian",
		"uml_mconsole im":                                 "images/",
		"uml_mconsole --li":                               "--list",
		"uml_mconsole --timeout 3 deb":                    "debian",
		"uml_mconsole --timeout ":                         "",
		"uml_mconsole --completion ":                      "bash zsh fish",
		"uml_mconsole --completion z":                     "zsh",
		"uml_mconsole debian re":                          "reboot remove",
		"uml_mconsole debian config m":                    "mem",
		"uml_mconsole debian config ubd1=di":              "ubd1=disk.img",
		"uml_mconsole debian config ubd1=disk.img,ba":     "ubd1=disk.img,base.img",
		"uml_mconsole debian config con1=d":               "",
		"uml_mconsole debian remove ubd15":                "ubd15",
		"uml_mconsole debian switch deb":                  "debian",
		"uml_mconsole debian log -":                       "-f",
		"uml_mconsole debian log -f dis":                  "disk.img",
		"uml_mconsole debian proc in":                     "interrupts",
		"uml_mconsole debian sysrq s":                     "s",
		"uml_mconsole debian version ":                    "",
		"uml_mconsole debian config ubd1=no/such/place/x": "",
	} {
		_, stdout, _ := call(t, "", "--complete", line)
		if got := strings.Join(strings.Fields(stdout), " "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	// Every command that help lists can be completed to.
	listed := regexp.MustCompile(`(?m)^ +([a-z-]+) `).FindAllStringSubmatch(localHelp, -1)
	for _, l := range listed {
		if len(beginning(l[1], commands)) == 0 {
			t.Errorf("%s is not completed to", l[1])
		}
	}
}

// shellCompletions are what each shell makes of the beginning of a line.
var shellCompletions = map[string]string{
	"uml_mconsole --li":                  "uml_mconsole --list",
	"uml_mconsole debi":                  "uml_mconsole debian",
	"uml_mconsole debian vers":           "uml_mconsole debian version",
	"uml_mconsole debian config ubd1=di": "uml_mconsole debian config ubd1=disk.img",
	"uml_mconsole debian log -f di":      "uml_mconsole debian log -f disk.img",
}

// shell runs a script of a shell where there is a machine and a disk.
func shell(t *testing.T, argv ...string) string {
	t.Helper()
	m := startMachine(t, "debian", answer)
	if err := os.WriteFile(filepath.Join(m.home, "disk.img"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range shells {
		_, text, _ := call(t, "", "--completion", name)
		if err := os.WriteFile(filepath.Join(m.home, "script."+name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The program that the scripts ask is this one.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "uml_mconsole")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(oracle.Tool(t, argv[0]), argv[1:]...)
	cmd.Dir = m.home
	cmd.Env = append(os.Environ(), "TERM=dumb", "RUN_UML_MCONSOLE=1", "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
	return string(out)
}

// bashDriver calls the script's function as bash does, for a line whose words are taken
// apart as bash takes them.
const bashDriver = `. ./script.bash
for line in "$@"; do
	COMP_LINE=$line COMP_POINT=${#line}
	read -ra COMP_WORDS <<<"${line//=/ = }"
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	COMPREPLY=()
	_uml_mconsole
	echo "${line%"${COMP_WORDS[COMP_CWORD]}"}${COMPREPLY[*]}"
done
complete -p uml_mconsole
`

func TestBashCompletion(t *testing.T) {
	argv, want := []string{"bash", "-c", bashDriver, "bash"}, ""
	for line, whole := range shellCompletions {
		argv, want = append(argv, line), want+whole+"\n"
	}
	if have := shell(t, argv...); have != want+"complete -F _uml_mconsole uml_mconsole\n" {
		t.Errorf("bash completes to\n%s, want\n%s", have, want)
	}
}

func TestZshCompletion(t *testing.T) {
	oracle.HoldsZsh(t, func(argv ...string) string { return shell(t, argv...) }, shellCompletions)
}

func TestFishCompletion(t *testing.T) {
	oracle.HoldsFish(t, func(argv ...string) string { return shell(t, argv...) }, shellCompletions)
}
