package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// defaultACLs are those of directories, by their names.
var defaultACLs = map[string]string{
	"named":   "d:u::rwx,d:u:1000:rwx,d:g::r-x,d:g:50:rw-,d:m::rwx,d:o::r-x",
	"minimal": "d:u::rwx,d:g::rwx,d:o::---",
	"masked":  "d:u::rw-,d:u:5:rwx,d:g::rwx,d:m::r--,d:o::-wx",
	"group":   "d:u::rwx,d:g::r--,d:m::rwx,d:o::r--",
	"none":    "",
}

// What is made in a directory with a default ACL is what a kernel makes there.
func TestDefaultACL(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	ours, theirs := smallImage(t, dir), filepath.Join(dir, "theirs.img")
	at := filepath.Join(dir, "mnt")
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{at, tree, filepath.Join(tree, "sub")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "tree.pl")
	// As umlimg does it, with the system calls themselves.
	perl := `use Fcntl; umask 0; sub file { sysopen(my $f, $_[0], O_CREAT|O_WRONLY, $_[1]) or die "$_[0]: $!" }
sub all { my $d = $_[0]; file("$d/f640", 0640); file("$d/f775", 0775); file("$d/f600", 0600);
  mkdir "$d/sub", 0770 or die; file("$d/sub/f664", 0664); mkdir "$d/sub/deep", 0755 or die; symlink "f640", "$d/link" or die;
  require POSIX; POSIX::mkfifo("$d/fifo", 0666) or die; }
`
	if err := os.WriteFile(script, []byte(perl+`all($ARGV[0]);`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(tree, "sub")); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "perl", script, tree)
	mounted := func(image string, do func()) {
		t.Helper()
		oracle.Run(t, "mount", "-o", "loop", image, at)
		defer oracle.Unmount(t, at)
		do()
	}
	mounted(ours, func() {
		for name, acl := range defaultACLs {
			d := filepath.Join(at, name)
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
			if acl != "" {
				oracle.Run(t, "setfacl", "-m", acl, d)
			}
			if name == "group" {
				oracle.Run(t, "chgrp", "7", d)
				oracle.Run(t, "chmod", "g+s", d)
			}
		}
	})
	copyFile(t, ours, theirs)
	for name := range defaultACLs {
		to := ours + ":/" + name
		must(t, "cp", "-r", tree+"/.", to)
		must(t, "mkdir", to+"/dir")
		must(t, "mkdir", "-m", "750", to+"/dir750")
		must(t, "mkdir", "-p", to+"/p/q")
		must(t, "put", script, to+"/put")
		must(t, "put", "-m", "640", script, to+"/put640")
		must(t, "put", script, to+"/put640") // what is there keeps its own
		must(t, "ln", "-s", "put", to+"/slink")
		must(t, "ln", to+"/put", to+"/hard")
		must(t, "cp", tree+"/f775", to+"/f600")
		must(t, "cp", ours+":/etc/passwd", to+"/inside")
		must(t, "chmod", "g-w", to+"/f775")
		must(t, "chmod", "705", to+"/sub")
		// What keeps its attributes inherits none.
		must(t, "cp", "-a", tree+"/f640", to+"/kept")
	}
	oracle.Fsck(t, ours)
	mounted(theirs, func() {
		for name := range defaultACLs {
			d := filepath.Join(at, name)
			oracle.Run(t, "perl", "-e", perl+`my $d = $ARGV[0]; all($d); umask 022;
mkdir "$d/dir", 0777 or die; mkdir "$d/dir750", 0777 or die; chmod 0750|(-g $d ? 02000 : 0), "$d/dir750"; mkdir "$d/p", 0777 or die; mkdir "$d/p/q", 0777 or die;
file("$d/put", 0666); file("$d/put640", 0666); chmod 0640, "$d/put640"; symlink "put", "$d/slink"; link "$d/put", "$d/hard"; file("$d/inside", 0644);`, d)
			oracle.Run(t, "chmod", "g-w", filepath.Join(d, "f775"))
			oracle.Run(t, "chmod", "705", filepath.Join(d, "sub"))
		}
	})
	// getfacl shows owners, groups and set-group-ID bits, too.
	lists := map[string]string{}
	for _, image := range []string{ours, theirs} {
		mounted(image, func() {
			for name := range defaultACLs {
				kept := filepath.Join(at, name, "kept")
				if image == ours {
					if got := oracle.Run(t, "getfacl", "-cnp", kept); got != "user::rw-\ngroup::r--\nother::---\n\n" {
						t.Errorf("%s: a file of cp -a has %q", name, got)
					}
				}
				_ = os.Remove(kept)
				lists[image+name] = oracle.Run(t, "sh", "-c", fmt.Sprintf("cd %s/%s && getfacl -nRP . && find . -type l", at, name))
			}
		})
	}
	for name := range defaultACLs {
		got, want := strings.Split(lists[ours+name], "\n\n"), strings.Split(lists[theirs+name], "\n\n")
		if len(got) != len(want) || len(want) < 15 {
			t.Errorf("%s: %d files, a kernel makes %d:\n%s", name, len(got), len(want), lists[ours+name])
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: ours\n%s\na kernel's\n%s", name, got[i], want[i])
			}
		}
	}
}
