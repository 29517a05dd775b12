package main

import "testing"

// Every script here runs once with our applets and once with Debian's
// coreutils, findutils and diffutils; see same.

func TestCat(t *testing.T) {
	same(t,
		"cat a b", "cat", "cat - a <b", "cat a missing b", "cat d", "cat -n a b", "cat -b words a", "cat -E words",
		"cat -nE b a", "cat binary", "cat --number a", "cat -Q a", "cat <empty", "cat -- a",
	)
}

func TestLs(t *testing.T) {
	same(t,
		"ls", "ls -a", "ls -A", "ls -1", "ls d", "ls d dlink a", "ls -d d dlink", "ls missing a", "ls -R d", "ls -aR d",
		"ls -l", "ls -la d | grep -v '[.][.]$'", "ls -ln", "ls -lg", "ls -lo", "ls -lh", "ls -lG", "ls -l a link dangling", "ls -L link", "ls -lL link",
		"ls -F", "ls -p", "ls -lF", "ls -r", "ls -S", "ls -lS", "ls -t", "ls -tr", "ls -X", "ls -i a >/dev/null", "ls -s d",
		"TABSIZE=0 ls -C", "TABSIZE=0 ls -C -a d", "ls -lc >/dev/null", "ls -u", "ls -lu", "ls dlink", "ls -l dlink", "ls -d dlink/", "ls -lR d",
		"ls -l /dev/null /dev/zero", "ls -l --full-time a", "ls -k -Z99", "ls loop", "ls -L loop", "ls /dev/null", "ls ''",
		"touch a*b; ls -q", "ls -U empty a d", "ls -ld .", "ls -l fifo exec", "chmod 7777 a; chmod 7000 b; ls -l a b",
	)
}

func TestCp(t *testing.T) {
	same(t,
		"cp a c", "cp a b d", "cp a", "cp", "cp a b c", "cp d c", "cp -r d c", "cp -r d d2 && cp -r d d2", "cp -a d c", "cp -a . /dev/null/x",
		"cp -p a c", "cp -p exec c", "cp link c", "cp -P link c", "cp -d link c", "cp -r dlink c", "cp -rL dlink c", "cp -rH dlink c",
		"cp -a link dangling fifo d", "cp missing c", "cp a missing d", "cp a a", "cp a link", "cp -f a link", "cp d/x d/y .",
		"cp -n a b", "cp -u a b", "touch a; cp -u a b", "cp -v a c", "cp -rv d c | sort", "cp -l a c", "cp -s a c", "cp -s a b", "cp -sf a b",
		"cp -t d a b", "cp -T a d/n", "cp -T d c", "cp -rT d c", "cp a d/", "cp a missing/", "cp -r d d/e; s=$?; rm -r d; exit $s", "cp -i a b <empty", "echo y | cp -i a b",
		"cp -a b hard d", "cp b hard d", "cp -r fifo c", "cp -ra d/. c", "mkdir c; cp -r d/. c", "cp a dangling", "chmod 0 a; cp -f b a; cat a",
		"cp --preserve=timestamps a c", "cp --preserve=mode exec c; ls -l c >/dev/null", "umask 077; cp exec c", "cp -r d/x c", "cp exec a; ls -l a >/dev/null",
		"truncate -s 1M sparse; echo x >>sparse; cp sparse s2; cmp sparse s2; du -k s2", "cp d a", "cp -r d a", "cp /dev/null c",
	)
}

func TestMv(t *testing.T) {
	same(t,
		"mv a c", "mv a b d", "mv a b", "mv d c", "mv a", "mv missing c", "mv a missing/c", "mv d d/e", "mv d a", "mv a d", "mv -T a d", "mv -n a b",
		"mv -u a b", "touch a; mv -u a b", "mv -v a c", "mv link c", "mv d/ c", "mv -t d a b", "mv a a", "mv -f a b", "echo n | mv -i a b", "echo y | mv -i a b",
		"mkdir d/a; mv a d", "mv d dlink", "mv a ''", "mkdir f f/d; mv d f", "mkdir f f/d; echo 1 >f/d/k; mv d f",
	)
}

func TestRm(t *testing.T) {
	same(t,
		"rm a", "rm a missing b", "rm -f missing", "rm", "rm -f", "rm d", "rm -d d", "mkdir m; rm -d m", "rm -r d", "rm -rf d missing", "rm -rv d | sort",
		"rm -v a", "rm link", "rm -r dlink", "rm dlink/", "echo y | rm -i a", "echo n | rm -i a", "rm -r .", "rm -rf ..", "rm -ri d <empty", "rm -- -x", "rm fifo",
		"rmdir d", "mkdir -p m/n/o; rmdir -p m/n/o", "mkdir m; rmdir -v m", "rmdir missing a", "mkdir m n; rmdir m n", "rmdir", "unlink a", "unlink d", "unlink",
		"link a c", "link a b", "link a",
	)
}

func TestMkdir(t *testing.T) {
	same(t,
		"mkdir m", "mkdir d", "mkdir -p d", "mkdir -p m/n/o", "mkdir m/n", "mkdir -m 700 m", "mkdir -m u=rwx,go= m", "mkdir -pm 1777 m/n", "mkdir -v m n",
		"mkdir -pv m/n", "umask 077; mkdir -p m/n", "umask 777; mkdir -p m", "mkdir a", "mkdir -p a/x", "mkdir", "mkdir -p m m", "mkdir -m 9 m", "mkdir m m2 d m3",
		"mkfifo p", "mkfifo -m 600 p q", "mkfifo a", "mknod p p", "mknod -m 600 p p", "mknod p x", "mknod n c", "mkdir -p dangling/x",
	)
}

func TestLn(t *testing.T) {
	same(t,
		"ln a c", "ln -s a c", "ln -s a b", "ln -sf a b", "ln -f a b", "ln a", "ln d c", "ln -s x y z", "ln a b d", "ln -s a d", "ln -s a dlink", "ln -sn a dlink",
		"ln -sfn a dlink", "ln -sT a d", "ln -sr d/x d/e/n", "ln -sr a d/n", "ln -sv a c", "ln -t d a", "ln link c", "ln -L link c", "ln missing c", "ln a a", "ln -sf a a2; ln -sf b a2",
	)
}

func TestChmod(t *testing.T) {
	same(t,
		"chmod 600 a", "chmod 4755 exec", "chmod +x a", "chmod -x exec", "chmod u+s,g-r a", "chmod a=r a", "chmod o= a", "chmod u=g b", "chmod g=u b", "chmod +X a exec d",
		"chmod -R go-rx d", "chmod -R a+X d", "chmod 1777 d", "chmod g+s d; chmod 755 d", "chmod +t d", "chmod ug+rw,o-rwx a b", "umask 027; chmod +w a", "umask 027; chmod a+w a", "chmod 0 a; chmod u+r a",
		"chmod -v 600 a b", "chmod -c 600 a b", "chmod --reference=exec a", "chmod 999 a", "chmod zz a", "chmod", "chmod 644", "chmod 600 missing a", "chmod -f 600 missing", "chmod =rw a", "chmod u+rwx,g+rx-w,o=t a",
		"chmod 600 link", "chmod 77777 a", "chmod -w a", "chmod -rw a", "chmod -R 700 d", "chmod 600 dangling",
	)
}

func TestChown(t *testing.T) {
	needsRoot(t)
	same(t,
		"chown 12:34 a", "chown daemon a", "chown daemon: a", "chown :daemon a", "chown daemon:mail a b", "chown -R 5 d", "chown 1 link", "chown -h 1 link", "chown nosuch a", "chown 1:nosuch a",
		"chgrp daemon a", "chgrp 77 a", "chgrp nosuch a", "chown 1 missing a", "chown", "chown 1", "chown -R 7:8 dlink", "chown --reference=a b", "chown -R 1 .", "chown 1 dangling", "chown 4294967294 a",
		"mknod n c 1 3", "mknod n b 98 16", "mknod -m 600 n c 5 1", "cp -a /dev/null n", "cp -r /dev/zero n", "chown 12:34 a; cp -p a c; cp a e", "chmod 4755 a; chown 1 a", "mv /dev/null/x y",
	)
}

func TestTouch(t *testing.T) {
	same(t,
		"touch new", "touch -c new", "touch -d '2020-01-02 03:04:05' a", "touch -d 2020-01-02T03:04:05.5Z a", "touch -t 202001020304.05 a", "touch -t 9901020304 a", "touch -r a b; touch -r a new",
		"touch -a -d '2020-01-02' a", "touch -m -d '2020-01-02' a", "touch -d @1234567890 a", "touch -h -d '2020-01-02' link", "touch -d '2020-01-02' link", "touch missing/x", "touch", "touch -d nonsense a", "touch -t 123 a",
		"touch -ad @0 a; stat -c %X a", "touch -hd @5 dangling", "touch -d @5 dangling", "touch d",
	)
}

func TestStat(t *testing.T) {
	same(t,
		"stat -c '%n %s %a %A %F %h %u %g %U %G' a b exec d link fifo empty /dev/null", "stat -c '%y|%Y|%x|%X' a", "stat -c %N a link", "stat -Lc '%F %s' link", "stat -c '%t %T' /dev/null /dev/zero",
		"stat missing", "stat -c '%s %%' missing a", "stat --printf '%n\\t%s\\n' a b", "stat", "stat -c '%05s|%-6s|%6s|%.2s' a", "stat -fc '%S %s %T %l' .", "stat -t a >/dev/null",
		"stat -c '%b %B %f %o' a", "stat a | sed 's/Inode: [0-9]*/Inode: N/; /Birth\\|Change/d'", "stat link | grep File", "stat -c %d a", "stat -c '%Hd %Ld' a", "stat /dev/null | grep -v Birth", "stat -c '%i' a >/dev/null",
	)
}

func TestPaths(t *testing.T) {
	same(t,
		"basename /a/b/c", "basename /a/b/c.txt .txt", "basename a/", "basename /", "basename //", "basename ''", "basename .txt .txt", "basename -a x/y z/w", "basename -s .c x.c y/z.c", "basename", "basename a b c", "basename -z a/b",
		"dirname /a/b/c", "dirname a", "dirname /", "dirname a/b/ c/d", "dirname //a//b//", "dirname ''", "dirname", "dirname /a", "dirname a//b",
		"readlink link", "readlink a", "readlink -f link", "readlink -f d/../link", "readlink -f missing", "readlink -f missing/x", "readlink -e missing", "readlink -e dangling", "readlink -m missing/x/..", "readlink -n link", "readlink link dangling", "readlink -f loop", "readlink", "readlink -f dlink/e/../x",
		"realpath link dlink/x", "realpath missing", "realpath -e missing", "realpath -m x/y/z", "realpath -s dlink/../a", "realpath .", "realpath a/", "realpath a/x", "realpath loop", "realpath -q missing/x",
		"cd d; pwd", "pwd -P", "env PWD=/wrong pwd -L",
	)
}

func TestDu(t *testing.T) {
	same(t,
		"du d | sort", "du -s d", "du -a d | sort", "du -sh d", "du -c d a | sort", "du -d 1 d | sort", "du -b a", "du -sb a b", "du a b hard", "du -l b hard", "du missing a", "du -sk d", "du -s --apparent-size a", "du -sL dlink", "du -s dlink", "du -x -s d", "du -a -s d", "du -sm d",
	)
}

func TestDd(t *testing.T) {
	// The time it took differs: status=none, or the first two lines.
	same(t,
		"dd if=a of=c status=none", "dd if=a bs=3 count=2 status=none", "dd if=a of=c bs=4 2>&1 | head -2", "dd if=a bs=1 skip=4 count=3 status=none", "dd if=a of=b bs=1 seek=2 conv=notrunc status=none", "dd if=a of=b bs=1 seek=2 status=none",
		"dd if=/dev/zero of=c bs=1k count=3 status=none", "dd if=a of=c bs=10 conv=sync status=none", "dd if=a conv=ucase status=none", "dd if=a conv=swab status=none", "dd status=none", "dd if=missing status=none", "dd nonsense", "dd bs=0 if=a", "dd if=a of=c conv=excl status=none; dd if=a of=c conv=excl status=none",
		"dd if=a of=c conv=nocreat status=none", "dd if=a ibs=5 obs=3 of=c 2>&1 | head -2", "dd if=a of=c oflag=append conv=notrunc status=none", "echo x >c; dd if=a of=c oflag=append conv=notrunc status=none", "dd if=a count=5B status=none", "dd if=a count=5 iflag=count_bytes status=none", "dd if=a skip=4 iflag=skip_bytes status=none",
		"dd if=/dev/zero of=c bs=1M seek=2 count=0 status=none; wc -c <c", "dd if=/dev/zero of=c bs=64k count=4 conv=sparse status=none; du c; wc -c <c", "dd bs=2x3 count=1 if=a status=none", "printf abc | dd bs=10 iflag=fullblock status=none", "dd if=d status=none", "dd if=a conv=fsync of=c status=none",
	)
}

func TestSmallFileTools(t *testing.T) {
	same(t,
		"truncate -s 5 a", "truncate -s +3 a", "truncate -s -3 a", "truncate -s 1K new", "truncate -c -s 5 new", "truncate -r a b", "truncate -s '<5' a", "truncate -s '>50' a", "truncate -s %10 a", "truncate -s /4 a", "truncate a", "truncate -s x a", "truncate -s 1 d",
		"cmp a a", "cmp a b", "cmp -s a b", "cmp -l a b", "cmp a missing", "cmp a empty", "cmp empty a", "printf 'one\\n' | cmp - a", "cmp -n 2 a b", "cmp -i 4 a a", "cmp a", "cmp -b a b", "cmp d a",
		"sync", "sync a d", "sync missing", "mktemp -u tXXXXXX | sed 's/t......$/ok/'", "mktemp -d mXXX >/dev/null; ls -d m??? | wc -l; rmdir m???", "f=$(mktemp ./q.XXXXXX); stat -c %a $f; rm $f", "mktemp nox", "f=$(TMPDIR=. mktemp); stat -c '%a %s' $f; rm $f", "mktemp -p missing xXXX", "f=$(mktemp --suffix=.t XXXX); rm ????.t",
		"fallocate -l 8192 new", "fallocate -n -l 8192 a", "fallocate -l 0 a",
	)
}

func TestTestApplet(t *testing.T) {
	for _, e := range []string{
		"", "x", "-n x", "-z ''", "-z x", "a = a", "a = b", "a != b", "1 -eq 1", "1 -lt 2", "2 -le 1", "-5 -gt -6", "x -eq 1", "-e a", "-e missing", "-f a", "-f d", "-d d", "-L link", "-h dangling", "-p fifo", "-s empty", "-s a", "-x exec", "-x a", "-r a",
		"! -e a", "! x", "'(' x ')'", "a -nt b", "a -ef link", "b -ef hard", "-e a -a -e b", "-e missing -o -e b", "'(' -e a -o -e b ')' -a -d d", "! -e a -o -e b", "-t 9", "-n", "=", "-n =", "x = ", "a b", "a b c", "1 -foo 2", "-S a", "-c /dev/null", "-b /dev/null", "-u a", "-k /tmp", "-O a", "-G a", "'('", "')'", "! ! x", "-a x", "x -a", "a '<' b",
	} {
		same(t, "env test "+e, "env [ "+e+" ]")
	}
	same(t, "env [ x")
}

func TestFind(t *testing.T) {
	same(t,
		"find d | sort", "find | sort", "find d -type f | sort", "find . -name 'v*' | sort", "find d -name .hidden", "find d -maxdepth 1 | sort", "find d -mindepth 2", "find . -type l | sort", "find -L d dlink -type f | sort", "find . -size 0 | sort", "find . -size +0c -type f | sort", "find . -size 1 -type f | sort", "find . -empty | sort",
		"find d -exec echo {} ';' | sort", "find d -type f -exec cat {} + | sort", "find d -name x -o -name y | sort", "find d ! -name x | sort", "find d '(' -name x -o -name z ')' -print", "find d -name e -prune -o -print | sort", "find d -depth -name z", "find d -delete; ls", "find . -perm 600 | sort", "find . -perm -100 -type f", "find . -perm /077 -type f | sort", "find . -newer a | sort",
		"find d -print0 | tr '\\0' ' ' | wc -c", "find d -name x -printf '%p %f %h %s %m %y %d\\n'", "find d -printf '%P\\n' | sort", "find a -printf '%TY-%Tm-%Td %T@\\n'", "find missing d -name x", "find . -user root -name a", "find . -links 2 -type f | sort", "find . -iname A", "find . -path './d/*' | sort", "find . -regex '.*/[xyz]' | sort", "find d -type d,l | sort", "find . -samefile b | sort",
		"find . -badoption", "find d -name", "find d '(' -name x", "find . -mtime +100 -name a", "find . -mtime -1 -name a", "find . -mmin -5 -type f | sort", "find d -name x -quit", "find d -exec false ';' -print", "find d -type f -exec sh -c 'echo $1' _ {} ';' | sort", "find a b -exec false {} +", "find d -maxdepth 0", "find . -name '[ab]' | sort", "find d -ok true {} ';' </dev/null", "find loop", "find -L loop", "find . -executable -type f", "find d -type x",
		"find d/ -name x", "find d//e", "find / -maxdepth 0", "find d -true -false , -name x", "find d -name x -print -name y -print", "find . -lname a", "find . -newer missing", "find . -uid 0 -name a", "find . -nouser",
	)
}
