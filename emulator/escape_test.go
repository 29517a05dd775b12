package emulator_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// TestWays has a guest try every way by which it could name a path, a socket, a program or
// a filter of the host. Its hostfs is confined, and nothing else leads out.
func TestWays(t *testing.T) {
	outside, err := os.MkdirTemp("", "ways")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(outside)
	for name, text := range map[string]string{"secret": "SECRET\n", "prog": "#!/bin/sh\n: >" + outside + "/ran\n"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	heard := make(chan string, 100)
	port := ""
	for _, l := range [][2]string{{"unix", outside + "/sock"}, {"unix", "@umlkit-ways"}, {"tcp", "127.0.0.1:0"}} {
		listener, err := net.Listen(l[0], l[1])
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if l[0] == "tcp" {
			_, port, _ = net.SplitHostPort(listener.Addr().String())
		}
		go func() {
			for {
				if _, err := listener.Accept(); err != nil {
					return
				}
				heard <- l[1]
			}
		}()
	}
	out, status := boot(t, "initrd="+initrd(t), "hostfs="+t.TempDir(), "con0=null,fd:1", "quiet", "mem=128M", "mount:proc,/proc,proc", "mount:sysfs,/sys,sysfs",
		"cat:/proc/filesystems", "cat:/proc/devices", "ways:"+outside+","+port)
	if status != 0 || !strings.Contains(out, "ways done\n") || strings.Contains(out, "ways LEAK") {
		t.Errorf("exit status %d:\n%s", status, out)
	}
	select {
	case at := <-heard:
		t.Errorf("the guest came through to %s", at)
	default:
	}
	entries, err := os.ReadDir(outside)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"prog", "secret", "sock"}; !slices.Equal(names, want) {
		t.Errorf("on the host there are %q, want %q", names, want)
	}

	// Whoever adds one of these says here why it names nothing of the host.
	for what, want := range map[string]string{
		// In the guest's memory; on its disks; hostfs, which is confined.
		"/proc/filesystems": "cgroup cgroup2 devpts devtmpfs ext2 ext3 ext4 fuse hostfs mqueue overlay proc sysfs tmpfs",
		// mem, tty, console, misc (fuse, tun), pts; ubd.
		"/proc/devices": "1 4 5 10 98",
	} {
		_, text, _ := strings.Cut(out, "== "+what+"\n")
		text, _, _ = strings.Cut(text, "== ")
		text, _, _ = strings.Cut(text, "ways ")
		var have []string
		for _, l := range strings.Split(text, "\n") {
			f := strings.Fields(l)
			switch {
			case len(f) == 0 || strings.HasSuffix(l, ":") || strings.HasPrefix(l, "hostfs: "):
			case what == "/proc/devices":
				if !slices.Contains(have, f[0]) {
					have = append(have, f[0])
				}
			default:
				have = append(have, f[len(f)-1])
			}
		}
		if what != "/proc/devices" {
			slices.Sort(have)
		}
		if got := strings.Join(have, " "); got != want {
			t.Errorf("%s has %s; want %s", what, got, want)
		}
	}
	// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET.
	if got := regexp.MustCompile(`ways families (.*)`).FindStringSubmatch(out); got == nil || strings.TrimSpace(got[1]) != "1 2 10 16 17" {
		t.Errorf("families of sockets: %q", got)
	}
}

// TestLinked holds that the parts of gVisor that reach files and sockets of the host are
// not in the program at all.
func TestLinked(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/linux")
	cmd.Dir = oracle.Root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "gvisor.dev/gvisor/pkg/sentry/kernel") {
		t.Fatal("the list lacks the kernel itself")
	}
	for _, d := range deps {
		for _, part := range []string{"pkg/sentry/fsimpl/gofer", "pkg/sentry/fsimpl/erofs", "pkg/sentry/socket/hostinet", "pkg/sentry/socket/plugin", "runsc", "pkg/sentry/devices/tpuproxy", "pkg/sentry/devices/accel", "pkg/sentry/devices/vfio"} {
			if strings.HasPrefix(d, "gvisor.dev/gvisor/"+part) {
				t.Errorf("%s is linked", d)
			}
		}
	}
}

// hostUses are the packages of the machine that name paths, sockets or programs of the
// host, with who gives them the names. The guest is nobody of these.
var hostUses = map[string]string{
	"emulator":           "the command line: initrd=, umid=, hostfs=; the machine's own memory and /proc entries",
	"emulator/ext4fs":    "a fixed name below the host's /proc",
	"emulator/fdt":       "the command line: dtb=",
	"emulator/hwrng":     "the command line, its device tree and the management console: the source of random numbers",
	"emulator/strace":    "the command line: strace.file=",
	"emulator/hostfs":    "the guest, one name at a time, below a descriptor that the command line named",
	"emulator/initramfs": "the command line: initrd=",
	"emulator/line":      "the command line and the management console: channels of terminals",
	"emulator/mconsole":  "the command line: uml_dir=, umid=, mconsole=notify:",
	"emulator/transport": "the command line and the management console: network transports",
	"emulator/ubd":       "the command line and the management console: images",
	"emulator/sys":       "fixed names",
	"emulator/platform":  "fixed names below the host's /proc/self/fd",
	"emulator/procfs":    "fixed names",
}

// hostCalls are the functions that name something of the host.
var hostCalls = map[string]*regexp.Regexp{
	"os":      regexp.MustCompile(`^(Open|OpenFile|OpenRoot|Create|CreateTemp|Mkdir|MkdirAll|MkdirTemp|ReadFile|WriteFile|ReadDir|Readlink|Symlink|Link|Remove|RemoveAll|Rename|Stat|Lstat|Truncate|Chmod|Chown|Lchown|Chtimes|Chdir|StartProcess|DirFS)$`),
	"unix":    regexp.MustCompile(`^(Open|Openat|Openat2|Creat|Mkdir|Mkdirat|Mknod|Mknodat|Symlink|Symlinkat|Link|Linkat|Unlink|Unlinkat|Rename|Renameat|Renameat2|Stat|Lstat|Fstatat|Statx|Readlink|Readlinkat|Connect|Bind|Exec|Mount|Chdir|Chroot|Truncate|Chmod|Chown|Fchmodat|Fchownat|Setxattr|Lsetxattr|Getxattr|Lgetxattr|Listxattr|Removexattr|UtimesNanoAt)$`),
	"syscall": regexp.MustCompile(`^(Open|Openat|Mkdir|Mknod|Symlink|Link|Unlink|Rename|Stat|Lstat|Connect|Bind|Exec|ForkExec|StartProcess|Mount|Chdir|Chroot)$`),
	"net":     regexp.MustCompile(`^(Dial|DialTimeout|DialUnix|DialTCP|DialUDP|Listen|ListenUnix|ListenUnixgram|ListenTCP|ListenUDP|ListenPacket)$`),
	"exec":    regexp.MustCompile(`^(Command|CommandContext|LookPath)$`),
	"ubdfmt":  regexp.MustCompile(`^(Open|OpenRaw|OpenCOW|Create|CreateCOW)$`),
}

// TestHostUses holds that only the packages above call such functions.
func TestHostUses(t *testing.T) {
	root := filepath.Join(oracle.Root(t), "emulator")
	found := map[string]bool{}
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if info.IsDir() {
			if name := info.Name(); name == "testdata" || name == "internal" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		pkg, _ := filepath.Rel(filepath.Dir(root), filepath.Dir(path))
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			from, ok := sel.X.(*ast.Ident)
			if !ok || hostCalls[from.Name] == nil || !hostCalls[from.Name].MatchString(sel.Sel.Name) {
				return true
			}
			found[pkg] = true
			if hostUses[pkg] == "" {
				t.Errorf("%s: %s.%s names something of the host: say in hostUses who gives the name", path, from.Name, sel.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !found["emulator/hostfs"] || !found["emulator/ubd"] {
		t.Errorf("what was found lacks what is there: %s", fmt.Sprint(found))
	}
}
