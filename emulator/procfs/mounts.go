package procfs

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"weak"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/reach"
)

// Sources knows what was given as the source of each mounted filesystem: the Sentry
// forgets it. The zero value is ready.
type Sources struct {
	// names is by filesystem, which it does not keep alive.
	names sync.Map // weak.Pointer[vfs.Filesystem] -> string

	// options is the same for options that the Sentry does not tell of.
	options sync.Map
}

// Wrap is a filesystem type that notes the source of each mount of t.
func (s *Sources) Wrap(t vfs.FilesystemType) vfs.FilesystemType { return noting{t, s} }

// noting implements vfs.FilesystemType.
type noting struct {
	vfs.FilesystemType
	sources *Sources
}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (n noting) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	fs, root, err := n.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	if err == nil {
		n.sources.note(fs, source)
	}
	return fs, root, err
}

func (s *Sources) note(fs *vfs.Filesystem, source string) { remember(&s.names, fs, source) }

// NoteOptions sets the options that are shown of a filesystem, in place of those that
// the Sentry has. Blanks in them are octal numbers.
func (s *Sources) NoteOptions(fs *vfs.Filesystem, options string) {
	remember(&s.options, fs, options)
}

func remember(m *sync.Map, fs *vfs.Filesystem, text string) {
	key := weak.Make(fs)
	if _, known := m.Swap(key, text); !known {
		// A cleanup that held m would keep the kernel that m is of, and so fs itself.
		forgetful := weak.Make(m)
		runtime.AddCleanup(fs, func(key weak.Pointer[vfs.Filesystem]) {
			if m := forgetful.Value(); m != nil {
				m.Delete(key)
			}
		}, key)
	}
}

// Of is the first column of /proc/mounts for fs.
func (s *Sources) Of(fs *vfs.Filesystem) string {
	if named, ok := fs.Impl().(interface{ MountSource() string }); ok {
		return named.MountSource()
	}
	if name, ok := s.names.Load(weak.Make(fs)); ok && name.(string) != "" {
		return name.(string)
	}
	return "none"
}

// mountsSource writes a list of the mounts that a task sees.
type mountsSource struct {
	sources *Sources
	task    *kernel.Task
	write   func(*bytes.Buffer, mountLine)
}

// GetDynamicBytesPoller implements vfs.PollableDynamicBytesSource: a poll wakes when
// something is mounted.
func (m *mountsSource) GetDynamicBytesPoller(context.Context) *vfs.DynamicBytesPoller {
	if ns := m.task.MountNamespace(); ns != nil {
		return &ns.Poller
	}
	return nil
}

// Generate implements vfs.DynamicBytesSource.Generate.
func (m *mountsSource) Generate(ctx context.Context, buf *bytes.Buffer) error {
	var fsctx *kernel.FSContext
	m.task.WithMuLocked(func(t *kernel.Task) { fsctx = t.FSContext() })
	if fsctx == nil {
		return nil
	}
	root := fsctx.RootDirectory()
	if !root.Ok() {
		return nil
	}
	defer root.DecRef(ctx)
	v := m.task.Kernel().VFS()
	sources, options := make(map[uint64]string), make(map[uint64]string)
	mounts := make(map[uint64]func(*mountLine))
	for _, mount := range reach.Mounts(ctx, v, root) {
		mounts[mount.ID] = about(mount)
		sources[mount.ID] = mangle(m.sources.Of(mount.Filesystem()))
		if o, ok := m.sources.options.Load(weak.Make(mount.Filesystem())); ok {
			options[mount.ID] = o.(string)
		}
		mount.DecRef(ctx)
	}
	var info bytes.Buffer
	if err := v.GenerateProcMountInfo(ctx, root, &info); err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSuffix(info.String(), "\n"), "\n") {
		if l, ok := parseMountLine(line); ok {
			if source, ok := sources[l.id]; ok {
				l.source = source
			}
			if own, ok := options[l.id]; ok {
				access, _, _ := strings.Cut(l.super, ",")
				l.super = access + "," + own
			}
			if complete, ok := mounts[l.id]; ok {
				complete(&l)
			}
			m.write(buf, l)
		}
	}
	return nil
}

// about gives what the Sentry's lines do not say of a mount: the rule for access times, and
// that the filesystem is read-only where the mount is not.
func about(mount *vfs.Mount) func(l *mountLine) {
	nodiratime, relatime := false, !mount.Options().Flags.NoATime
	fs := mount.Filesystem().Impl()
	if t, ok := fs.(interface {
		AccessTimes() (nodiratime, strict bool)
	}); ok {
		var strict bool
		nodiratime, strict = t.AccessTimes()
		relatime = relatime && !strict
	}
	access := ""
	if r, ok := fs.(interface{ ReadOnly() bool }); ok {
		access = map[bool]string{false: "rw", true: "ro"}[r.ReadOnly()]
	}
	return func(l *mountLine) {
		if nodiratime {
			l.add("nodiratime")
		}
		if relatime && l.typ != "rootfs" { // the one that nobody mounted
			l.add("relatime")
		}
		if access != "" {
			_, own, _ := strings.Cut(l.super, ",")
			l.super = strings.TrimSuffix(access+","+own, ",")
		}
	}
}

// mountLine is a line of /proc/PID/mountinfo. Its texts have blanks as octal numbers.
type mountLine struct {
	id      uint64
	head    string // all up to the dash
	point   string
	options string // of the mount
	typ     string
	source  string
	super   string // of the filesystem, beginning with rw or ro
}

// add adds an option of the mount.
func (l *mountLine) add(option string) {
	fields := strings.Fields(l.head)
	l.options += "," + option
	fields[5] = l.options
	l.head = strings.Join(fields, " ")
}

// parseMountLine takes a line of the Sentry's apart.
func parseMountLine(line string) (mountLine, bool) {
	var l mountLine
	head, tail, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(head), strings.SplitN(tail, " ", 3)
	if !ok || len(fields) < 6 || len(rest) != 3 {
		return l, false
	}
	id, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil {
		return l, false
	}
	l = mountLine{
		id: id, head: strings.TrimRight(head, " "), point: fields[4], options: fields[5],
		typ: rest[0], source: rest[1], super: rest[2],
	}
	// Names of the Sentry's own.
	if l.typ == "dev" {
		l.typ = "devtmpfs"
	}
	l.super, _, _ = strings.Cut(l.super, ",dentry_cache_limit=")
	return l, true
}

func writeMountInfo(buf *bytes.Buffer, l mountLine) {
	fmt.Fprintf(buf, "%s - %s %s %s\n", l.head, l.typ, l.source, l.super)
}

func writeMounts(buf *bytes.Buffer, l mountLine) {
	access, mount, _ := strings.Cut(l.options, ",")
	super, own, _ := strings.Cut(l.super, ",")
	if super == "ro" {
		access = super
	}
	options := []string{access}
	for { // those that every filesystem may have come before the mount's
		first, rest, _ := strings.Cut(own, ",")
		if first != "sync" && first != "dirsync" && first != "mand" && first != "lazytime" {
			break
		}
		options, own = append(options, first), rest
	}
	for _, o := range []string{mount, own} {
		if o != "" {
			options = append(options, o)
		}
	}
	fmt.Fprintf(buf, "%s %s %s %s 0 0\n", l.source, l.point, l.typ, strings.Join(options, ","))
}

func writeMountStats(buf *bytes.Buffer, l mountLine) {
	if l.source == "none" {
		fmt.Fprintf(buf, "no device mounted on %s with fstype %s\n", l.point, l.typ)
		return
	}
	fmt.Fprintf(buf, "device %s mounted on %s with fstype %s\n", l.source, l.point, l.typ)
}

// mangle writes blanks as octal numbers, as Linux does.
func mangle(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace(s)
}
