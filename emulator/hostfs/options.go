package hostfs

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// options are what stands behind -o, but for what mount(8) makes flags of.
type options struct {
	// dir is the directory below the export, absolute and clean.
	dir string

	// uid and gid are whom the files of the user and group who run the machine belong
	// to in the guest. mapUID and mapGID say whether they are given.
	uid, gid       uint32
	mapUID, mapGID bool

	// remember keeps what the host does not grant in an attribute of the file.
	remember bool

	ro bool
}

// maxID is the last user or group number; the one after it means "no change".
const maxID = 1<<32 - 2

// parseOptions reads mount options: "/dir" or "hostfs=/dir", "uid=N", "gid=N",
// "remember", "ro", "rw", "defaults".
func parseOptions(data string) (options, error) {
	o := options{dir: "/"}
	for _, word := range strings.Split(data, ",") {
		name, value, valued := strings.Cut(word, "=")
		switch {
		case word == "" || word == "rw" || word == "defaults":
		case word == "ro":
			o.ro = true
		case strings.HasPrefix(word, "/"):
			o.dir = path.Clean(word)
		case name == "hostfs" && valued:
			o.dir = path.Clean("/" + value)
		case word == "remember":
			o.remember = true
		case name == "uid" && valued, name == "gid" && valued:
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n > maxID {
				return o, fmt.Errorf("option %s: not a number from 0 to %d", word, uint32(maxID))
			}
			if name == "uid" {
				o.uid, o.mapUID = uint32(n), true
			} else {
				o.gid, o.mapGID = uint32(n), true
			}
		default:
			return o, fmt.Errorf("unknown option %q: there are /DIR, uid=N, gid=N, remember, ro and rw", word)
		}
	}
	if o.remember {
		o.mapUID, o.mapGID = true, true
	}
	return o, nil
}

// parseRemount reads the options of a remount. What it does not name stays; mount(8)
// gives back what /proc/mounts shows.
func parseRemount(data string, fs *filesystem) (options, error) {
	var words []string
	for _, word := range strings.Split(data, ",") {
		if word != "append" || !fs.grow {
			words = append(words, word)
		}
	}
	return parseOptions(fs.opts.String() + "," + strings.Join(words, ","))
}

// String is the options as /proc/mounts shows them and a remount gives them back.
func (o *options) String() string {
	words := []string{o.dir}
	if o.mapUID {
		words = append(words, fmt.Sprintf("uid=%d", o.uid))
	}
	if o.mapGID {
		words = append(words, fmt.Sprintf("gid=%d", o.gid))
	}
	if o.remember {
		words = append(words, "remember")
	}
	return strings.Join(words, ",")
}
