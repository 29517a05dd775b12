package ext4fs

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/ext4"
	"github.com/umlkit/umlkit/ext4/format"
)

// defaultCommit is Linux's: how long a change may wait for the disk.
const defaultCommit = 5 * time.Second

// options are the mount options of a filesystem. They are immutable; a remount makes
// new ones.
type options struct {
	ro, sync, dirsync, mand, lazytime bool // which mount(2) has flags for, too
	nodiratime, strictatime           bool // which are flags of mount(2) only
	grpid, minixdf, discard, noload   bool
	errors                            ext4.ErrorPolicy
	commit                            time.Duration

	// shown is which of flagOptions MountOptions says, extra which of
	// numberOptions.
	shown map[string]bool
	data  string // data=, where it was given
	extra map[string]string

	ignored error // what is wrong with the options in the superblock
}

// optionError is a mount option that is refused.
type optionError struct{ text string }

func (e *optionError) Error() string { return e.text }

// flagOptions are the options without a value that do not change what this
// filesystem does, in the order in which Linux shows them, with the option that each
// undoes and the name by which Linux shows it. Each is the wish for a mechanism that
// the engine does not have, or that cannot be observed: what the disk holds is the
// same with and without. An option that is the default is not shown.
var flagOptions = []struct{ name, undoes, shown string }{
	{"block_validity", "noblock_validity", ""},
	{"noblock_validity", "block_validity", "noblock_validity"},
	{"dioread_nolock", "dioread_lock", ""},
	{"dioread_lock", "dioread_nolock", "nodioread_nolock"},
	{"nodioread_nolock", "dioread_nolock", "nodioread_nolock"},
	{"delalloc", "nodelalloc", ""},
	{"nodelalloc", "delalloc", "nodelalloc"},
	{"warn_on_error", "nowarn_on_error", "warn_on_error"},
	{"nowarn_on_error", "warn_on_error", ""},
	{"journal_checksum", "nojournal_checksum", ""},
	{"nojournal_checksum", "journal_checksum", "nojournal_checksum"},
	{"journal_async_commit", "", "journal_async_commit"},
	{"barrier", "nobarrier", ""},
	{"nobarrier", "barrier", "nobarrier"},
	{"noauto_da_alloc", "auto_da_alloc", "noauto_da_alloc"},
	{"auto_da_alloc", "noauto_da_alloc", ""},
	{"noinit_itable", "init_itable", "noinit_itable"},
	{"init_itable", "noinit_itable", ""},
	{"debug", "", "debug"},
	{"nombcache", "", "nombcache"},
	{"no_mbcache", "", "nombcache"},
	{"prefetch_block_bitmaps", "no_prefetch_block_bitmaps", ""},
	{"no_prefetch_block_bitmaps", "prefetch_block_bitmaps", "no_prefetch_block_bitmaps"},
	{"nouid32", "", "nouid32"},
	{"i_version", "", ""},
	{"noquota", "quota", ""},
	{"bh", "", ""},
	{"nobh", "", ""},
	{"mblk_io_submit", "", ""},
	{"nomblk_io_submit", "", ""},
	{"oldalloc", "", ""},
	{"orlov", "", ""},
	{"acl", "", ""},
	{"user_xattr", "", ""},
	{"reservation", "", ""},
	{"noreservation", "", ""},
	{"nocheck", "", ""},
	{"inlinecrypt", "", ""},
}

// numberOptions are the options with a number that, but for resuid, resgid and
// max_dir_size_kb, do not change what this filesystem does, in the order in which Linux shows them, and the numbers that are
// the default; without one Linux does not show the option.
var numberOptions = []struct {
	name, def string
	refuse    func(n uint64) string // what is wrong with it, "" when nothing is
}{
	{"resuid", "0", nil},
	{"resgid", "0", nil},
	{"min_batch_time", "0", nil},
	{"max_batch_time", "15000", nil},
	{"stripe", "0", nil},
	{"inode_readahead_blks", "32", func(n uint64) string {
		if n&(n-1) == 0 && n < 1<<31 {
			return ""
		}
		return "inode_readahead_blks must be 0 or a power of 2 smaller than 2^31"
	}},
	{"init_itable", "10", nil},
	{"max_dir_size_kb", "0", nil},
	{"journal_ioprio", "", func(n uint64) string {
		if n <= 7 {
			return ""
		}
		return "Invalid journal IO priority (must be 0-7)"
	}},
	{"mb_optimize_scan", "", func(n uint64) string {
		if n <= 1 {
			return ""
		}
		return "mb_optimize_scan should be set to 0 or 1."
	}},
	{"debug_want_extra_isize", "", func(n uint64) string {
		if n&1 == 0 && n >= 4 && n <= 4096-128 {
			return ""
		}
		return fmt.Sprintf("Invalid want_extra_isize %d", n)
	}},
}

// maxCommit is the longest commit=, in seconds: what Linux holds in its clock ticks.
const maxCommit = (1<<31 - 1) / 100

// parseOptions reads the data of mount(2) over base, the options in force or those
// that the superblock asks for.
func parseOptions(data string, base *options) (*options, error) {
	o := *base
	o.shown = make(map[string]bool)
	o.extra = make(map[string]string)
	for k := range base.shown {
		o.shown[k] = true
	}
	for k, v := range base.extra {
		o.extra[k] = v
	}
	delayed := false
	for _, opt := range strings.Split(data, ",") {
		if opt == "" {
			continue
		}
		if err := o.set(opt); err != nil {
			return nil, err
		}
		delayed = delayed || opt == "delalloc"
	}
	if o.data == "journal" {
		if delayed {
			return nil, &optionError{"can't mount with both data=journal and delalloc"}
		}
		o.shown["nodioread_nolock"], o.shown["nodelalloc"] = true, true
	}
	if o.dataMode() == "ordered" && o.shown["journal_async_commit"] {
		return nil, &optionError{"can't mount with journal_async_commit in data=ordered mode"}
	}
	return &o, nil
}

// set applies one option.
func (o *options) set(opt string) error {
	name, value, valued := strings.Cut(opt, "=")
	if !valued && o.setFlag(name) {
		return nil
	}
	if !valued {
		if name == "barrier" || name == "auto_da_alloc" {
			return nil
		}
		return &optionError{fmt.Sprintf("Unknown parameter '%s'", name)}
	}
	return o.setValue(name, value)
}

// setFlag applies an option without a value. It says whether it knows it.
func (o *options) setFlag(name string) bool {
	switch name {
	case "ro":
		o.ro = true
	case "rw":
		o.ro = false
	case "sync":
		o.sync = true
	case "async":
		o.sync = false
	case "dirsync":
		o.dirsync = true
	case "mand":
		o.mand = true
	case "nomand":
		o.mand = false
	case "lazytime":
		o.lazytime = true
	case "nolazytime":
		o.lazytime = false
	case "grpid", "bsdgroups":
		o.grpid = true
	case "nogrpid", "sysvgroups":
		o.grpid = false
	case "minixdf":
		o.minixdf = true
	case "bsddf":
		o.minixdf = false
	case "discard":
		o.discard = true
	case "nodiscard":
		o.discard = false
	case "noload", "norecovery":
		o.noload = true
	default:
		for _, f := range flagOptions {
			if f.name != name {
				continue
			}
			for _, g := range flagOptions {
				if g.name == f.undoes {
					delete(o.shown, g.shown)
				}
			}
			if f.shown != "" {
				o.shown[f.shown] = true
			}
			return true
		}
		return false
	}
	return true
}

// dataMode is the value of data=, given or not.
func (o *options) dataMode() string {
	if o.data == "" {
		return "ordered"
	}
	return o.data
}

// number is the value of one of numberOptions, or def.
func (o *options) number(name string, def uint32) uint32 {
	if n, err := strconv.ParseUint(o.extra[name], 0, 32); err == nil {
		return uint32(n)
	}
	return def
}

// setValue applies an option with a value.
func (o *options) setValue(name, value string) error {
	bad := func() error { return &optionError{fmt.Sprintf("Bad value for '%s'", name)} }
	number, err := strconv.ParseUint(value, 0, 32)
	switch name {
	case "errors":
		switch value {
		case "continue":
			o.errors = ext4.ErrorsContinue
		case "remount-ro":
			o.errors = ext4.ErrorsReadOnly
		case "panic":
			o.errors = ext4.ErrorsPanic
		default:
			return bad()
		}
		return nil
	case "data":
		switch value {
		case "journal", "ordered", "writeback":
			o.data = value
			return nil
		}
		return bad()
	case "data_err":
		switch value {
		case "abort":
			o.shown["data_err=abort"] = true
		case "ignore":
			delete(o.shown, "data_err=abort")
		default:
			return bad()
		}
		return nil
	case "sb":
		if err != nil {
			return bad()
		}
		if number != 1 {
			return &optionError{"only the first superblock can be mounted from: 'sb=" + value + "'"}
		}
		return nil
	case "commit":
		if err != nil {
			return bad()
		}
		if number > maxCommit {
			return &optionError{fmt.Sprintf("Invalid commit interval %d, must be smaller than %d", number, maxCommit)}
		}
		if o.commit = time.Duration(number) * time.Second; number == 0 {
			o.commit = defaultCommit
		}
		return nil
	case "check": // ext2's; Linux takes any value
		return nil
	case "barrier", "auto_da_alloc":
		if err != nil {
			return bad()
		}
		if number == 0 {
			name = "no" + name
		}
		o.setFlag(name)
		return nil
	}
	for _, n := range numberOptions {
		if n.name != name {
			continue
		}
		if err != nil {
			return bad()
		}
		if n.refuse != nil && n.refuse(number) != "" {
			return &optionError{n.refuse(number)}
		}
		if delete(o.extra, name); value != n.def && n.def != "" {
			o.extra[name] = value
		}
		return nil
	}
	return &optionError{fmt.Sprintf("Unknown parameter '%s'", name)}
}

// defaultMounts are the options that bits of the superblock stand for. The bits of
// user_xattr and acl say nothing: both are always on.
var defaultMounts = []struct {
	bit    uint32
	option string
}{
	{format.MountDebug, "debug"},
	{format.MountBSDGroups, "grpid"},
	{format.MountUID16, "nouid32"},
	{format.MountNoBarrier, "nobarrier"},
	{format.MountBlockValid, "block_validity"},
	{format.MountDiscard, "discard"},
	{format.MountNoDelayAlloc, "nodelalloc"},
}

// defaultOptions are those that a superblock asks for, as tune2fs -o and -E mount_opts
// set them.
func defaultOptions(info ext4.Info) *options {
	o := &options{
		errors: info.Errors,
		commit: defaultCommit,
		shown:  make(map[string]bool),
		extra:  make(map[string]string),
	}
	if o.errors == 0 {
		o.errors = ext4.ErrorsContinue
	}
	for _, d := range defaultMounts {
		if info.DefaultMount&d.bit != 0 {
			o.setFlag(d.option)
		}
	}
	switch info.DefaultMount & format.MountJournalMode {
	case format.MountDataJournal:
		o.data = "journal"
	case format.MountDataOrdered:
		o.data = "ordered"
	case format.MountDataWriteb:
		o.data = "writeback"
	}
	if info.MountOpts == "" {
		return o
	}
	with, err := parseOptions(info.MountOpts, o)
	if err != nil {
		o.ignored = err
		return o
	}
	with.ro = false // that is the mount's to say
	return with
}

// String is the options that differ from those of base, as Linux prints them in
// /proc/mounts, without ro and rw and those of the mount.
func (o *options) String(base *options) string {
	var out []string
	add := func(when bool, s string) {
		if when {
			out = append(out, s)
		}
	}
	add(o.sync, "sync")
	add(o.dirsync, "dirsync")
	add(o.mand, "mand")
	add(o.lazytime, "lazytime")
	add(o.minixdf, "minixdf")
	add(o.grpid && !base.grpid, "grpid")
	add(!o.grpid && base.grpid, "nogrpid")
	for _, f := range flagOptions {
		if f.name == "delalloc" {
			add(o.discard && !base.discard, "discard")
			add(!o.discard && base.discard, "nodiscard")
		}
		if f.name == f.shown {
			add(o.shown[f.shown] && !base.shown[f.shown], f.shown)
		} else if undone := shownAs(f.undoes); undone != "" && f.shown == "" {
			add(base.shown[undone] && !o.shown[undone], f.name)
		}
	}
	add(o.noload, "norecovery")
	add(o.shown["data_err=abort"] && !base.shown["data_err=abort"], "data_err=abort")
	for _, n := range numberOptions[:2] {
		add(o.extra[n.name] != "", n.name+"="+o.extra[n.name])
	}
	add(o.errors != base.errors, "errors="+o.errors.String())
	add(o.commit != defaultCommit, fmt.Sprintf("commit=%d", o.commit/time.Second))
	for k, n := range numberOptions[2:] {
		add(k == 3 && o.data != base.data, "data="+o.data)
		add(o.extra[n.name] != "", n.name+"="+o.extra[n.name])
	}
	return strings.Join(out, ",")
}

// shownAs is the name under which Linux shows a flag; "" for a default.
func shownAs(flag string) string {
	for _, f := range flagOptions {
		if f.name == flag {
			return f.shown
		}
	}
	return ""
}

// checkJournal refuses the options that are about a journal where there is none. base
// are the superblock's.
func (o *options) checkJournal(journal bool, base *options) error {
	switch {
	case journal:
		return nil
	case o.data != base.data:
		return &optionError{"can't mount with data=, fs mounted w/o journal"}
	case o.commit != defaultCommit:
		return &optionError{fmt.Sprintf("can't mount with commit=%d, fs mounted w/o journal", o.commit/time.Second)}
	case o.shown["journal_async_commit"]:
		return &optionError{"can't mount with journal_async_commit, fs mounted w/o journal"}
	}
	return nil
}
