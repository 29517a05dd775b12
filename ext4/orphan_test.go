package ext4

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soundOrphans fails the test unless those are on the orphan list that have no link.
func soundOrphans(t *testing.T, fs *FS, files ...*Inode) {
	t.Helper()
	for _, n := range files {
		n.amu.Lock()
		links, on := n.d.Links, n.orphan.on
		n.amu.Unlock()
		if on != (links == 0) {
			t.Errorf("inode %d with %d links, on the orphan list: %v", n.ino, links, on)
		}
	}
	fs.orphans.mu.Lock()
	defer fs.orphans.mu.Unlock()
	for n := fs.orphans.head; n != nil; n = n.orphan.next {
		if n.d.Links != 0 {
			t.Errorf("inode %d with %d links is on the orphan list", n.ino, n.d.Links)
		}
	}
}

// A file gets a name in one directory while its last one in another is taken by a rename,
// a removal or another file: it has a name, or is on the orphan list, and never both.
func TestLinkWhileTheLastNameGoes(t *testing.T) {
	image := makeImage(t, 32<<20, "-t", "ext4", "-b", "1024")
	fs := openFS(t, image, Options{CommitEvery: 20 * time.Millisecond})
	root := must(fs.Root())
	dirs := make([]*Inode, 3)
	for i := range dirs {
		dirs[i] = must(root.Create(fmt.Sprint("dir", i), NewInode{Mode: 0o40755}))
	}
	from, to, spare := dirs[0], dirs[1], dirs[2]
	for i := range 60 { // that the search for room takes a moment
		check(t, must(to.Create(fmt.Sprintf("%0200d", i), regular)).Put())
	}
	take := []func(name string) error{
		func(name string) error { return fs.Rename(spare, name, from, name, RenameFlags{}) },
		func(name string) error { return from.Unlink(name) },
		func(name string) error {
			n, err := spare.Lookup(name)
			if err != nil {
				return err
			}
			return errors.Join(from.Replace(name, n), n.Put())
		},
	}
	give := []func(name string, n *Inode) error{
		func(name string, n *Inode) error { return to.Link(name, n) },
		func(name string, n *Inode) error { return to.Replace("victim", n) },
	}
	rounds := 4000
	if testing.Short() {
		rounds = 600
	}
	gone := 0
	for i := range rounds {
		name := fmt.Sprint(i)
		n := must(from.Create(name, regular))
		check(t, must(spare.Create(name, regular)).Put())
		victim, err := to.Create("victim", regular)
		if err != nil {
			victim = must(to.Lookup("victim"))
		}
		var all sync.WaitGroup
		var given, taken error
		all.Go(func() { taken = take[i%len(take)](name) })
		all.Go(func() { given = give[i/len(take)%len(give)](name, n) })
		all.Wait()
		check(t, taken)
		if given != nil && !errors.Is(given, unix.ENOENT) {
			t.Fatal(given)
		}
		want := uint32(1)
		if given != nil {
			want = 0
			gone++
		}
		if links := n.Attr().Links; links != want {
			t.Fatalf("round %d: %d links, want %d: %v", i, links, want, given)
		}
		soundOrphans(t, fs, n, victim)
		if t.Failed() {
			t.Fatalf("round %d: taken by %d, given by %d", i, i%len(take), i/len(take)%len(give))
		}
		check(t, n.Put())
		check(t, victim.Put())
		for _, d := range dirs {
			if err := d.Unlink(name); err != nil && !errors.Is(err, unix.ENOENT) {
				t.Fatal(err)
			}
		}
	}
	t.Logf("of %d rounds the name came too late in %d", rounds, gone)
	check(t, fs.Freeze())
	fsck(t, image)
	fs.Thaw()
	for _, d := range append(dirs, root) {
		check(t, d.Put())
	}
	closeFS(t, fs)
	fsck(t, image)
}

// Many give one file names at once, and stop where the count of links ends.
func TestLinksEndAtOnce(t *testing.T) {
	image := makeImage(t, 16<<20, "-t", "ext4")
	fs := openFS(t, image, Options{})
	root := must(fs.Root())
	n := must(root.Create("f", regular))
	setLinks := func(links int) {
		h := must(fs.begin())
		check(t, n.addLinks(h, links-int(n.links())))
		h.end()
	}
	var dirs []*Inode
	for i := range 8 {
		d := must(root.Create(fmt.Sprint("dir", i), NewInode{Mode: 0o40755}))
		for i := range 15 { // that the search for room takes a moment
			check(t, must(d.Create(fmt.Sprintf("%0250d", i), regular)).Put())
		}
		dirs = append(dirs, d)
	}
	for round := range 400 {
		const room = 2
		setLinks(65000 - room)
		errs := make([]error, len(dirs))
		start := make(chan struct{})
		var all sync.WaitGroup
		for i, d := range dirs {
			all.Go(func() {
				<-start
				errs[i] = d.Link("f", n)
			})
		}
		close(start)
		all.Wait()
		made := 0
		for i, err := range errs {
			switch {
			case err == nil:
				made++
				check(t, dirs[i].Unlink("f"))
			case !errors.Is(err, unix.EMLINK):
				t.Error(err)
			}
		}
		if made != room || n.links() != 65000-room {
			t.Fatalf("round %d: %d links were made, %d are left", round, made, n.links())
		}
	}
	setLinks(1)
	for _, d := range append(dirs, n, root) {
		check(t, d.Put())
	}
	closeFS(t, fs)
	fsck(t, image)
}

// tellingDevice calls before ahead of every read.
type tellingDevice struct {
	*fileDevice
	before func()
}

func (d *tellingDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.before != nil {
		d.before()
	}
	return d.fileDevice.ReadAt(p, off)
}

// midTruncation truncates a file of many extents, which create makes, and calls middle
// when some of them are gone and some are not.
func midTruncation(t *testing.T, create func(root *Inode) *Inode, middle func(fs *FS, root, n *Inode)) (image string, fs *FS, root, n *Inode, err error) {
	t.Helper()
	image = makeImage(t, 64<<20, "-t", "ext4", "-b", "1024")
	d := &tellingDevice{fileDevice: openDevice(t, image)}
	fs = must(Open(d, Options{Logf: t.Logf, CommitEvery: time.Hour}))
	root = must(fs.Root())
	n = create(root)
	for i := range 6000 {
		must(n.WriteAt([]byte{1}, int64(i)*int64(fs.bs)*2))
	}
	check(t, fs.Sync())
	limit := fs.cache.limit
	fs.cache.limit = 0
	fs.cache.evict() // that the tree is read
	fs.cache.limit = limit
	called := false
	d.before = func() {
		if called || !n.orphan.cut {
			return
		}
		called = true
		var other sync.WaitGroup // a goroutine has one handle
		other.Go(func() { middle(fs, root, n) })
		other.Wait()
	}
	err = n.Truncate(100)
	d.before = nil
	if !called {
		t.Fatal("the truncation took one step, or read nothing: the test proves nothing")
	}
	return image, fs, root, n, err
}

func named(root *Inode) *Inode    { return must(root.Create("f", regular)) }
func nameless(root *Inode) *Inode { return must(root.CreateUnlinked(regular)) }

// A file loses its last name while it is truncated in steps: it is freed with its last
// user all the same.
func TestUnlinkDuringTruncation(t *testing.T) {
	image, fs, root, n, err := midTruncation(t, named, func(fs *FS, root, n *Inode) {
		check(t, root.Unlink("f"))
	})
	check(t, err)
	soundOrphans(t, fs, n)
	ino := n.ino
	check(t, n.Put())
	_, err = fs.Inode(ino)
	wantErr(t, err, unix.ESTALE)
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A file without a name gets one while it is truncated in steps: it stays on the orphan
// list until that has ended, for a crash leaves the rest to the next mount.
func TestLinkDuringTruncation(t *testing.T) {
	image, fs, root, n, err := midTruncation(t, nameless, func(fs *FS, root, n *Inode) {
		check(t, root.Link("f", n))
		n.amu.Lock()
		defer n.amu.Unlock()
		if !n.orphan.on {
			t.Error("not on the orphan list while it is truncated")
		}
	})
	check(t, err)
	soundOrphans(t, fs, n)
	check(t, fs.Freeze())
	fsck(t, image)
	fs.Thaw()
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}

// A truncation that a remount to read-only cut short is finished by the next one, though
// the file is open: what was cut off does not come back when it grows.
func TestTruncationIsFinishedAfterRemount(t *testing.T) {
	for name, create := range map[string]func(*Inode) *Inode{"named": named, "nameless": nameless} {
		t.Run(name, func(t *testing.T) { truncationAcrossRemount(t, create) })
	}
}

func truncationAcrossRemount(t *testing.T, create func(root *Inode) *Inode) {
	image, fs, root, n, err := midTruncation(t, create, func(fs *FS, root, n *Inode) {
		fs.readOnly.Store(true)
	})
	wantErr(t, err, unix.EROFS)
	fs.readOnly.Store(false)
	check(t, fs.Remount(true))
	check(t, fs.Remount(false))
	check(t, n.SetSize(4<<20))
	got := make([]byte, 4<<20)
	must(n.ReadAt(got, 0))
	for i, c := range got[1:] {
		if c != 0 {
			t.Fatalf("byte %d is %d", i+1, c)
		}
	}
	if n.links() == 0 {
		check(t, root.Link("f", n))
	}
	soundOrphans(t, fs, n)
	check(t, fs.Freeze())
	fsck(t, image)
	fs.Thaw()
	check(t, n.Put())
	check(t, root.Put())
	closeFS(t, fs)
	fsck(t, image)
}
