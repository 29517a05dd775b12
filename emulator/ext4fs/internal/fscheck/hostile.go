package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// What a damaged filesystem may answer with: that it is damaged, that it is read-only
// since, and what follows from names, types and counts that are not what they were.
var (
	mountErrors = []error{unix.EUCLEAN, unix.EBADMSG, unix.EIO, unix.EINVAL, unix.EROFS, unix.EOPNOTSUPP}
	useErrors   = append(slices.Clone(mountErrors), unix.ENOSPC, unix.ENOENT, unix.EEXIST, unix.ENOTDIR, unix.EISDIR,
		unix.ENOTEMPTY, unix.ESTALE, unix.ENAMETOOLONG, unix.EMLINK, unix.EPERM, unix.EACCES, unix.ENODATA, unix.EFBIG,
		unix.ELOOP, unix.ENXIO, unix.EOVERFLOW, unix.EBUSY)
)

func among(err error, list []error) bool {
	return slices.ContainsFunc(list, func(e error) bool { return errors.Is(err, e) })
}

// hostile copies images of size bytes, which lie one behind the other on the disk store,
// one after another to the disk scratch, mounts each and uses it. Every error is right
// that a damaged filesystem may answer with.
func hostile(scratch, store string, size int64) (status int) {
	images, err := os.Open(store)
	must(err)
	defer images.Close()
	end, err := images.Seek(0, io.SeekEnd)
	must(err)
	must(os.MkdirAll("/tmp/hostile", 0o755))
	for i := int64(0); i < end/size; i++ {
		disk, err := os.OpenFile(scratch, os.O_WRONLY, 0)
		must(err)
		_, err = io.Copy(disk, io.NewSectionReader(images, i*size, size))
		must(err)
		must(disk.Sync())
		must(disk.Close())
		err = unix.Mount(scratch, "/tmp/hostile", "ext4", 0, "")
		if err != nil {
			fmt.Printf("image %d: not mounted: %v\n", i, err)
			if !among(err, mountErrors) {
				status = 1
			}
			continue
		}
		seen := map[string]int{}
		use("/tmp/hostile", func(what string, err error) {
			if err == nil || errors.Is(err, io.EOF) {
				return
			}
			var no unix.Errno
			errors.As(err, &no)
			seen[no.Error()]++
			if !among(err, useErrors) {
				fmt.Printf("image %d: %s: %v\n", i, what, err)
				status = 1
			}
		})
		var list []string
		for e, n := range seen {
			list = append(list, fmt.Sprintf("%d × %s", n, e))
		}
		sort.Strings(list)
		if err := unix.Unmount("/tmp/hostile", 0); err != nil {
			fmt.Printf("image %d: unmount: %v\n", i, err)
			return 1
		}
		fmt.Printf("image %d: used: %s\n", i, strings.Join(list, ", "))
	}
	return status
}

// use does a little of everything below dir.
func use(dir string, note func(what string, err error)) {
	budget := 500
	p := make([]byte, 16<<10)
	note("walk", filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if budget--; budget < 0 {
			return filepath.SkipAll
		}
		note("readdir "+path, err)
		if err != nil {
			return nil
		}
		_, err = os.Lstat(path)
		note("lstat "+path, err)
		_, err = unix.Llistxattr(path, p)
		note("listxattr "+path, err)
		switch {
		case e.Type()&os.ModeSymlink != 0:
			_, err = os.Readlink(path)
			note("readlink "+path, err)
		case e.Type().IsRegular():
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			note("open "+path, err)
			if err != nil {
				return nil
			}
			defer f.Close()
			for _, off := range []int64{0, 200_000, 1 << 31} {
				_, err = f.ReadAt(p, off)
				note("read "+path, err)
			}
			if budget%4 == 0 {
				_, err = f.WriteAt(p[:5000], 3000)
				note("write "+path, err)
				note("truncate "+path, f.Truncate(2000))
				note("fsync "+path, f.Sync())
			}
		}
		return nil
	}))
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint("new-", i))
		note("create", os.WriteFile(path, p[:i*700], 0o644))
		note("setxattr", unix.Lsetxattr(path, "user.x", p[:i*40], 0))
		note("mkdir", os.Mkdir(path+"-d", 0o755))
		note("rename", os.Rename(path, path+"-d/moved"))
		note("link", os.Link(path+"-d/moved", filepath.Join(dir, "dir", fmt.Sprint("linked-", i))))
	}
	for _, path := range []string{"file", "extents", "dir", "small"} {
		note("remove", os.RemoveAll(filepath.Join(dir, path)))
	}
	d, err := os.Open(dir)
	note("open", err)
	if err == nil {
		note("syncfs", unix.Syncfs(int(d.Fd())))
		d.Close()
	}
}
