// Package nameless makes files of this machine that have no name until they are complete,
// where the host can do that: whatever ends the program before, nothing is left of them.
package nameless

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// File is a file in the making, open for reading and writing.
type File struct {
	*os.File
	dir  int  // where it will have its name
	own  bool // dir is the file's to close
	name string
	temp string // its name until Commit, "" while it has none
}

// Create begins a file that will be at path. A symbolic link there, which may lead to
// nothing yet, stays one: what it names will be the file. Permissions are perm less the
// umask. Errors are bare: the path is for the caller to name.
func Create(path string, perm uint32) (*File, error) {
	path, err := Follow(path)
	if err != nil {
		return nil, err
	}
	dir, err := unix.Open(directory(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f, err := CreateAt(dir, filepath.Base(path), perm)
	if err != nil {
		unix.Close(dir)
		return nil, err
	}
	f.own = true
	return f, nil
}

// CreateAt begins a file that will have that name in an open directory, which is to stay
// open. No symbolic link is followed.
func CreateAt(dir int, name string, perm uint32) (*File, error) {
	f := &File{dir: dir, name: name}
	if haveProc() {
		fd, err := unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, perm)
		if err == nil {
			f.File = os.NewFile(uintptr(fd), name)
			return f, nil
		}
		// EISDIR and EOPNOTSUPP: a kernel or a file system without nameless files.
		if err != unix.EISDIR && err != unix.EOPNOTSUPP && err != unix.EINVAL {
			return nil, err
		}
	}
	temp := tempName()
	fd, err := unix.Openat(dir, temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
	if err != nil {
		return nil, err
	}
	f.File, f.temp = os.NewFile(uintptr(fd), name), temp
	return f, nil
}

// tempName is a name that no other process will choose.
func tempName() string { return ".umlimg-" + rand.Text()[:12] }

// Only /proc lets someone without privilege name an open file.
const openFiles = "/proc/self/fd/"

var haveProc = sync.OnceValue(func() bool { return unix.Access(openFiles, unix.X_OK) == nil })

func (f *File) link(name string) error {
	return unix.Linkat(unix.AT_FDCWD, openFiles+strconv.Itoa(int(f.Fd())), f.dir, name, unix.AT_SYMLINK_FOLLOW)
}

// Commit gives the file its name, in place of a file of that name if replace is set; else
// such a file is an error, unix.EEXIST. The file stays open, and is not made stable.
func (f *File) Commit(replace bool) error {
	if f.temp == "" {
		// A name that is free needs no other before, which a kill would leave.
		err := f.link(f.name)
		if !replace || err != unix.EEXIST {
			return err
		}
		temp := tempName()
		if err := f.link(temp); err != nil {
			return err
		}
		f.temp = temp
	}
	err := error(nil)
	if replace {
		err = unix.Renameat(f.dir, f.temp, f.dir, f.name)
	} else {
		err = f.renameNew()
	}
	if err == nil {
		f.temp = ""
	}
	return err
}

// renameNew gives the file its name where nothing has it.
func (f *File) renameNew() error {
	err := unix.Renameat2(f.dir, f.temp, f.dir, f.name, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	// A file system that cannot say "only if it is not there".
	var st unix.Stat_t
	if err := unix.Fstatat(f.dir, f.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		return errors.Join(err, unix.EEXIST)
	}
	return unix.Renameat(f.dir, f.temp, f.dir, f.name)
}

// Close closes the file. Unless it was committed nothing is left of it.
func (f *File) Close() error {
	if f.temp != "" {
		_ = unix.Unlinkat(f.dir, f.temp, 0)
		f.temp = ""
	}
	if f.own {
		unix.Close(f.dir)
		f.own = false
	}
	return f.File.Close()
}

// Like gives the file owner and permissions of the one that it will replace: only the
// content is to be another. What set-user-ID bits would give to a wrong owner they do not.
func (f *File) Like(old *unix.Stat_t) error {
	mode := old.Mode & 0o7777
	if err := unix.Fchown(int(f.Fd()), int(old.Uid), int(old.Gid)); err != nil {
		mode &^= 0o6000
	}
	return unix.Fchmod(int(f.Fd()), mode)
}

// Follow is the name that a name at last stands for, which may not exist.
func Follow(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link, or nothing
		}
		if !filepath.IsAbs(target) {
			target = directory(path) + target
		}
		path = target
	}
	return "", unix.ELOOP
}

// directory is the part of a name before its last, with a slash behind it. It is not
// cleaned: where "link/.." leads only the kernel knows.
func directory(path string) string {
	dir, _ := filepath.Split(path)
	if dir == "" {
		return "./"
	}
	return dir
}
