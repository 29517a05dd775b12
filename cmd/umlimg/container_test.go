package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// container makes, by umoci, a layout with an image "app" of a static busybox alone, and
// sets its configuration.
func container(t *testing.T, config ...string) string {
	t.Helper()
	dir := t.TempDir()
	layout, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	image := layout + ":app"
	oracle.Run(t, "umoci", "init", "--layout", layout)
	oracle.Run(t, "umoci", "new", "--image", image)
	oracle.Run(t, "umoci", "unpack", "--rootless", "--image", image, bundle)
	root := filepath.Join(bundle, "rootfs")
	for _, d := range []string{"etc", "prog"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "cp", oracle.Tool(t, "busybox"), filepath.Join(root, "prog/busybox"))
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1234:100:app:/home/app:/bin/sh\n",
		"etc/group":  "root:x:0:\nusers:x:100:\nextra:x:77:root,app\nmore:x:78:app\nnone:x:79:root\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "umoci", "repack", "--image", image, bundle)
	oracle.Run(t, "umoci", append([]string{"config", "--image", image, "--architecture", "amd64"}, config...)...)
	return layout
}

// The program of an image that has nothing else runs as a machine, with its arguments,
// environment, directory and user; its exit status is told and the power goes off.
func TestContainerBoots(t *testing.T) {
	const limit = 90 * time.Second
	layout := container(t, "--config.entrypoint", "/prog/busybox", "--config.entrypoint", "sh", "--config.entrypoint", "-c",
		"--config.cmd", `b=/prog/busybox; echo BEGIN; $b id; $b pwd; $b env | $b sort; echo "$0"; $b touch /tmp/mine; $b grep ' / ' /proc/mounts | $b cut -d ' ' -f 1-3; $b ls /dev/null; echo END; exit 7`,
		"--config.cmd", `it's "$PATH" \`, "--config.user", "app", "--config.workingdir", "/srv/data", "--config.env", "GREETING=it's $HOME", "--config.env", "NAME=1")
	image := filepath.Join(t.TempDir(), "app.img")
	must(t, "create", "--from", "oci:"+layout+":app", "--platform", "linux/amd64", "--umlbox", guest.Binary(t, "umlbox"), "--size", "64M", "--hostname", "app", image)
	oracle.Fsck(t, image)
	boot := func(more ...string) string {
		t.Helper()
		argv := append([]string{guest.Binary(t, "linux"), "mem=128M", "ubd0=" + image, "root=/dev/ubda", "con=null", "con0=fd:0,fd:1", "quiet"}, more...)
		out, code := guest.Output(t, limit, argv...)
		if code != 0 {
			t.Fatalf("exit status %d\n%s", code, out)
		}
		return strings.ReplaceAll(out, "\r", "")
	}
	out := boot("rw")
	_, shown, _ := strings.Cut(out, "BEGIN\n")
	shown, rest, _ := strings.Cut(shown, "END\n")
	want := "uid=1234(app) gid=100(users) groups=100(users),77(extra),78(more)\n/srv/data\nGREETING=it's $HOME\nHOME=/home/app\nNAME=1\n" +
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/srv/data\nSHLVL=1\nTERM=linux\nit's \"$PATH\" \\\n" +
		"/dev/ubda / ext4\n/dev/null\n"
	if shown != want {
		t.Errorf("the program sees\n%s\nwant\n%s", shown, want)
	}
	if !strings.Contains(rest, `init: "/.umlkit/run" ended with status 7`) {
		t.Errorf("its status is not told: %s", rest)
	}
	// A command in its place.
	if out := boot("ro", "--", "-c", "echo $((40 + 2)); /.umlkit/umlbox whoami"); !strings.Contains(out, "42\nroot\n") {
		t.Errorf("the command of the kernel's line is not run: %s", out)
	}
	// A way down does not wait for the program.
	if out := boot("rw", "--", "-c", "/.umlkit/umlbox kill -USR2 1; /prog/busybox sleep 1000"); !strings.Contains(out, "going down") {
		t.Errorf("it does not go down: %s", out)
	}
}

// Who a program runs as, and what is done where the image has an init, or no program.
func TestContainerConfig(t *testing.T) {
	box := guest.Binary(t, "umlbox")
	for _, c := range []struct {
		config []string
		more   []string
		have   string // in /.umlkit/run, or the error
	}{
		{[]string{"--config.cmd", "/prog/busybox"}, nil, `--userspec=0:0 --groups=0,77,79 `},
		{[]string{"--config.cmd", "x", "--config.user", "1234"}, nil, `--userspec=1234:100 --groups=100,77,78 `},
		{[]string{"--config.cmd", "x", "--config.user", "app:extra"}, nil, `--userspec=1234:77 --groups=77 `},
		{[]string{"--config.cmd", "x", "--config.user", "4000:4001"}, nil, `--userspec=4000:4001 --groups=4001 `},
		{[]string{"--config.cmd", "x", "--config.user", "root"}, nil, `'HOME=/root'`},
		{[]string{"--config.cmd", "x", "--config.env", "HOME=/h", "--config.env", "PATH=/prog"}, nil, "'HOME=/h' \\\n\t'PATH=/prog' \\\n\t'TERM=linux' "},
		{[]string{"--config.cmd", "x", "--config.user", "nobody"}, nil, `error: the configuration: user "nobody": there is no such user in the image's /etc/passwd`},
		{[]string{"--config.cmd", "x", "--config.user", "app:none such"}, nil, `error: the configuration: user "app:none such": there is no group "none such" in the image's /etc/group`},
		{nil, nil, `error: the configuration names no program to run, and there is no init: --as-is takes the image all the same`},
		{nil, []string{"--as-is"}, "none"},
		{[]string{"--config.cmd", "/prog/init"}, nil, "none"},
		{[]string{"--config.cmd", "x"}, []string{"--umlbox", oracle.Tool(t, "bash")}, "error: " + oracle.Tool(t, "bash") + " needs libraries: build it with CGO_ENABLED=0"},
		{[]string{"--config.cmd", "x", "--architecture", "arm64"}, []string{"--platform", "linux/arm64"}, "error: the image is for arm64 and " + box + " for EM_X86_64: name one for arm64 by --umlbox, or take the image without an init by --as-is"},
		{[]string{"--config.cmd", "x", "--architecture", "arm64"}, []string{"--platform", "linux/arm64", "--as-is"}, "none"},
	} {
		layout := container(t, c.config...)
		image := filepath.Join(t.TempDir(), "app.img")
		argv := append([]string{"create", "--from", "oci:" + layout, "--size", "64M"}, c.more...)
		if more := strings.Join(c.more, " "); !strings.Contains(more, "--as-is") && !strings.Contains(more, "--umlbox") {
			argv = append(argv, "--umlbox", box)
		}
		status, _, stderr := call(append(argv, image)...)
		have := ""
		switch {
		case status != 0:
			have = "error: " + strings.TrimSpace(strings.TrimPrefix(stderr, "umlimg: create "+image+": "+layout+": "))
		default:
			if status, have, _ = call("cat", image+":/.umlkit/run"); status != 0 {
				have = "none"
			}
		}
		if have != c.have && !(strings.HasPrefix(have, "#!") && strings.Contains(have, c.have)) {
			t.Errorf("%q %q: %s, want %s", c.config, c.more, have, c.have)
		}
	}
}
