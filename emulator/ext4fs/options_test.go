package ext4fs

import (
	"errors"
	"testing"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// The options column of /proc/mounts as a real 7.2 kernel prints it, without rw and
// relatime, which are the mount's.
func TestOptionsAreShownAsLinuxShowsThem(t *testing.T) {
	for _, c := range []struct{ data, shown string }{
		{"", ""},
		{"discard", "discard"},
		{"errors=remount-ro", "errors=remount-ro"},
		{"errors=panic", "errors=panic"},
		{"errors=continue", ""},
		{"data=ordered", "data=ordered"},
		{"data=journal", "nodioread_nolock,nodelalloc,data=journal"},
		{"data=writeback", "data=writeback"},
		{"commit=30", "commit=30"},
		{"commit=5", ""},
		{"commit=0", ""},
		{"barrier=0", "nobarrier"},
		{"barrier=1", ""},
		{"nobarrier", "nobarrier"},
		{"nobarrier,barrier", ""},
		{"user_xattr,acl", ""},
		{"grpid", "grpid"},
		{"nogrpid", ""},
		{"minixdf", "minixdf"},
		{"bsddf", ""},
		{"nodelalloc", "nodelalloc"},
		{"nodelalloc,delalloc", ""},
		{"noauto_da_alloc", "noauto_da_alloc"},
		{"stripe=8", "stripe=8"},
		{"inode_readahead_blks=16", "inode_readahead_blks=16"},
		{"resuid=5,resgid=6", "resuid=5,resgid=6"},
		{"init_itable=20", "init_itable=20"},
		{"noinit_itable", "noinit_itable"},
		{"commit=15,errors=remount-ro,discard", "discard,errors=remount-ro,commit=15"},
		{"journal_checksum", ""},
		{"max_batch_time=1", "max_batch_time=1"},
		{"dioread_lock", "nodioread_nolock"},
		{"noblock_validity", "noblock_validity"},
		{"data_err=abort", "data_err=abort"},
		{"lazytime", "lazytime"},
		{"mand,lazytime,sync,nolazytime", "sync,mand"},
		{"nojournal_checksum", "nojournal_checksum"},
		{"barrier=2", ""},
		{"journal_ioprio=2,mb_optimize_scan=0,debug_want_extra_isize=32", ""},
		{"sb=1", ""},
		{"debug", "debug"},
		{"norecovery", "norecovery"},
		{"ro", ""},
		{"discard,,nodiscard", ""},
	} {
		base := defaultOptions(ext4.Info{})
		o, err := parseOptions(c.data, base)
		if err != nil {
			t.Errorf("%q: %v", c.data, err)
			continue
		}
		if got := o.String(base); got != c.shown {
			t.Errorf("%q is shown as %q, should be %q", c.data, got, c.shown)
		}
	}
}

func TestOptionsOfTheSuperblockAreNotShown(t *testing.T) {
	base := defaultOptions(ext4.Info{Errors: ext4.ErrorsReadOnly, DefaultMount: format.MountDiscard})
	o, err := parseOptions("errors=remount-ro,discard", base)
	if err != nil {
		t.Fatal(err)
	}
	if got := o.String(base); got != "" {
		t.Errorf("shown as %q", got)
	}
	if o, err = parseOptions("errors=continue,nodiscard", base); err != nil {
		t.Fatal(err)
	}
	if got, want := o.String(base), "nodiscard,errors=continue"; got != want {
		t.Errorf("shown as %q, should be %q", got, want)
	}
}

func TestWrongOptions(t *testing.T) {
	for _, c := range []struct{ data, message string }{
		{"unknown", "Unknown parameter 'unknown'"},
		{"unknown=1", "Unknown parameter 'unknown'"},
		{"errors=x", "Bad value for 'errors'"},
		{"data=x", "Bad value for 'data'"},
		{"commit=x", "Bad value for 'commit'"},
		{"commit=-1", "Bad value for 'commit'"},
		{"data_err=x", "Bad value for 'data_err'"},
		{"stripe=many", "Bad value for 'stripe'"},
		{"barrier=x", "Bad value for 'barrier'"},
		{"noacl", "Unknown parameter 'noacl'"},
		{"nouser_xattr", "Unknown parameter 'nouser_xattr'"},
		{"noatime", "Unknown parameter 'noatime'"},
		{"journal_async_commit", "can't mount with journal_async_commit in data=ordered mode"},
		{"inode_readahead_blks=3", "inode_readahead_blks must be 0 or a power of 2 smaller than 2^31"},
		{"journal_ioprio=8", "Invalid journal IO priority (must be 0-7)"},
		{"mb_optimize_scan=2", "mb_optimize_scan should be set to 0 or 1."},
		{"debug_want_extra_isize=2", "Invalid want_extra_isize 2"},
		{"commit=21474837", "Invalid commit interval 21474837, must be smaller than 21474836"},
		{"sb=0", "only the first superblock can be mounted from: 'sb=0'"},
		{"discard=1", "Unknown parameter 'discard'"},
		{"acl,nonsense", "Unknown parameter 'nonsense'"},
	} {
		_, err := parseOptions(c.data, defaultOptions(ext4.Info{}))
		var oe *optionError
		if !errors.As(err, &oe) || oe.text != c.message {
			t.Errorf("%q: got %v, want %q", c.data, err, c.message)
		}
	}
}

func TestOptionsAboutAJournal(t *testing.T) {
	for _, data := range []string{"data=ordered", "commit=30", "data=writeback,journal_async_commit"} {
		o, err := parseOptions(data, defaultOptions(ext4.Info{}))
		if err != nil {
			t.Fatal(err)
		}
		base := defaultOptions(ext4.Info{})
		if o.checkJournal(true, base) != nil || o.checkJournal(false, base) == nil {
			t.Errorf("%s: with a journal %v, without one %v", data, o.checkJournal(true, base), o.checkJournal(false, base))
		}
	}
}

func FuzzOptions(f *testing.F) {
	for _, s := range []string{"", "discard", "errors=remount-ro,commit=5", "=,=", "a=b=c", "commit=99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data string) {
		base := defaultOptions(ext4.Info{})
		o, err := parseOptions(data, base)
		if err != nil {
			return
		}
		// What is shown can be mounted with again, and is shown the same.
		shown := o.String(base)
		p, err := parseOptions(shown, base)
		if err != nil {
			t.Fatalf("%q is shown as %q, which is refused: %v", data, shown, err)
		}
		if again := p.String(base); again != shown {
			t.Fatalf("%q is shown as %q, and that as %q", data, shown, again)
		}
	})
}
