package debian

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// suites are names of Debian's own, to tell its archive from others that apt knows.
var suites = []string{"bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"}

// sourceMax bounds a file of apt's configuration, in bytes.
const sourceMax = 1 << 20

// aptSource is an archive that apt takes packages from.
type aptSource struct {
	uri    string
	suites []string
}

// AptMirror is the archive that apt on a system takes a suite from, or one that has
// another suite of Debian's; "" where apt knows none. etc is the system's /etc/apt.
func AptMirror(etc fs.FS, suite string) (string, error) {
	names := []string{"sources.list"}
	entries, err := fs.ReadDir(etc, "sources.list.d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		names = append(names, path.Join("sources.list.d", e.Name()))
	}
	var all []aptSource
	for _, name := range names {
		ext := path.Ext(name)
		if ext != ".list" && ext != ".sources" {
			continue
		}
		f, err := etc.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		data, err := readAll(f, name, sourceMax)
		f.Close()
		if err != nil {
			return "", err
		}
		if ext == ".list" {
			all = append(all, listSources(string(data))...)
		} else {
			all = append(all, deb822Sources(string(data))...)
		}
	}
	for _, wanted := range [][]string{{suite}, suites} {
		for _, s := range all {
			if slices.ContainsFunc(s.suites, func(have string) bool { return slices.Contains(wanted, have) }) {
				return s.uri, nil
			}
		}
	}
	return "", nil
}

// usable says whether we can fetch from an archive of apt's.
func usable(uri string) bool {
	return strings.HasPrefix(uri, "http://") || strings.HasPrefix(uri, "https://") || strings.HasPrefix(uri, "file:/")
}

// listSources reads the lines of a sources.list(5): deb [OPTIONS] URI SUITE COMPONENT...
func listSources(text string) []aptSource {
	var out []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if before, rest, ok := strings.Cut(line, "["); ok {
			_, rest, _ = strings.Cut(rest, "]")
			line = before + rest
		}
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "deb" && usable(f[1]) {
			out = append(out, aptSource{f[1], f[2:3]})
		}
	}
	return out
}

// deb822Sources reads the paragraphs of a *.sources file.
func deb822Sources(text string) []aptSource {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	var out []aptSource
	_ = eachParagraph(strings.Join(lines, ""), func(p paragraph) error { // what is too long is not apt's
		if !slices.Contains(strings.Fields(p.field("Types")), "deb") || p.field("Enabled") == "no" {
			return nil
		}
		for _, uri := range strings.Fields(p.field("URIs")) {
			if usable(uri) {
				out = append(out, aptSource{uri, strings.Fields(p.field("Suites"))})
			}
		}
		return nil
	})
	return out
}

// HostApt is this machine's configuration of apt.
func HostApt() fs.FS { return os.DirFS("/etc/apt") }
