package emulator

import (
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// ptsType is the Sentry's devpts, whose directory everyone may enter. In mount(2) the
// options uid=, gid= and mode= are those of ptys, and the Sentry takes them for those of
// the directory: with the mode=620 that Debian and systemd give, nobody but root would
// find a pty there.
type ptsType struct{ devpts.FilesystemType }

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (t *ptsType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	words := []string{"mode=755", "uid=0", "gid=0"}
	for _, word := range strings.Split(opts.Data, ",") {
		name, value, valued := strings.Cut(word, "=")
		base := 10
		switch {
		case name == "mode" && valued:
			base = 8
		case (name == "uid" || name == "gid") && valued:
		case word == "":
			continue
		default:
			words = append(words, word)
			continue
		}
		if _, err := strconv.ParseUint(value, base, 32); err != nil {
			return nil, nil, linuxerr.EINVAL
		}
	}
	opts.Data = strings.Join(words, ",")
	return t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
}
