package main

import "testing"

func TestEcho(t *testing.T) {
	same(t,
		"env echo", "env echo a b", "env echo -n a", "env echo -e 'a\\tb\\n\\0101\\x41\\c z'", "env echo -E 'a\\n'", "env echo -nex a", "env echo - a", "env echo -e '\\q\\\\'", "env echo -- a", "env echo -e '\\e[0m\\a\\b\\f\\r\\v'", "env echo -n -e 'x\\n' -n", "env echo -e '\\08 \\x \\'",
	)
}

func TestPrintf(t *testing.T) {
	same(t,
		"env printf 'hi\\n'", "env printf '%s-%s\\n' a b c", "env printf '%d %i %5d|%-5d|%05d\\n' 1 2 3 4 5", "env printf '%x %X %o %u\\n' 255 255 8 7", "env printf '%c%c\\n' abc d", "env printf '%5s|%-5s|%.2s|\\n' a b cde", "env printf '%b' 'a\\tb\\n'", "env printf '%%\\n'", "env printf '%f %.2f %e %g\\n' 1.5 2.345 1000 0.0001", "env printf '%*d\\n' 5 3",
		"env printf '%d\\n' 0x1f 010 \"'A\"", "env printf '%d\\n' abc", "env printf", "env printf '%z'", "env printf '\\101\\x42\\n'", "env printf 'a\\cb'", "env printf '%s\\n'", "env printf 'no args %s %d.\\n'", "env printf '%q\\n' 'a b'", "env printf -- '-%s\\n' x", "env printf '%s' 'a\\n'", "env printf '%+d % d\\n' 5 5", "env printf '%d\\n' -5", "env printf '%x\\n' -1", "env printf '%#x\\n' 255", "env printf '%.3d\\n' 5",
	)
}

func TestHeadTail(t *testing.T) {
	same(t,
		"head -n 2 a", "head -2 a", "head a b", "head -c 5 a", "head -n -1 a", "head -c -3 a", "head -q a b", "head -v a", "head missing a", "head -n 0 a", "head -n 1K a", "head -n x a", "head -n 1", "(head -n 1; cat) <a", "seq 30 | head", "head -c 1K numbers", "head -z -n 1 binary", "head -n 1 b a empty",
		"tail -n 2 a", "tail -2 a", "tail a b", "tail -c 5 a", "tail -n +2 a", "tail -c +3 a", "tail -q a b", "tail -v a", "tail missing a", "tail -n 0 a", "tail -n 1", "seq 30 | tail", "seq 30 | tail -n +28", "tail +2 a", "tail -n 100 a", "tail b", "tail -n 1 b", "seq 100000 | tail -n 3", "seq 100000 >big; tail -n 3 big; rm big", "tail -c 4 <b", "seq 10 | tail -c 3", "tail -n x a", "tail empty", "tail d",
	)
}

func TestWc(t *testing.T) {
	same(t,
		"wc a", "wc -l a", "wc -w words", "wc -c a b", "wc -m a", "wc -L words", "wc <a", "wc", "cat a | wc", "wc a missing", "wc -lw a b", "wc binary", "wc empty", "wc -l a b empty", "wc -lc a", "wc d", "wc - <a", "cat a b | wc -c", "wc -cl a", "seq 100000 | wc",
	)
}

func TestSort(t *testing.T) {
	same(t,
		"sort a b", "sort -r a", "sort -n numbers", "sort -g numbers", "sort -u numbers", "sort -nu numbers", "sort -nr numbers", "sort -k 2 table", "sort -k 2n table", "sort -k 3,3 -k 2nr table", "sort -k2,2n -s table", "sort -t : -k 2 words", "sort -f words", "sort -b words", "sort -d words", "sort -c a", "sort -c table", "sort -C table", "printf '1\\n2\\n' | sort -c",
		"sort -o b a; cat b", "sort -o a a", "sort missing", "sort -k 0 a", "sort -t ab a", "sort -V -", "ls v* | sort -V", "printf '3K\\n1M\\n2\\n' | sort -h", "printf 'MAR\\njan\\nfeb\\n' | sort -M", "sort -k 1.2,1.3 table", "sort -n -k 2,2 -t ' ' table", "sort -z binary", "sort a >1; sort b >2; sort -m 1 2", "sort -s -k 3 table", "sort -k 3r -k 1 table", "sort -rk 2,2n table", "sort -fu words", "sort --reverse a", "sort -i binary",
		"printf 'b 1\\na 1\\n' | sort -k2,2", "printf 'b 1\\na 1\\n' | sort -s -k2,2", "sort", "printf '2\\n10\\n' | sort -k1n", "printf -- '-1\\n-10\\n0\\n' | sort -n",
	)
}

func TestUniq(t *testing.T) {
	same(t,
		"sort a b | uniq", "sort a b | uniq -c", "sort a b | uniq -d", "sort a b | uniq -u", "printf 'a\\nA\\n' | uniq -i", "uniq -f 1 table", "uniq -s 2 a", "uniq -w 1 a", "uniq a out", "uniq missing", "uniq b", "uniq a b c", "printf '1 x\\n2 x\\n3 y\\n' | uniq -f1 -c", "printf 'a\\na\\nb\\n' | uniq -cd", "uniq -z binary",
	)
}

func TestTr(t *testing.T) {
	same(t,
		"tr a-z A-Z <a", "tr -d aeiou <a", "tr -s e <a", "tr -cd 'a-z\\n' <words", "tr '[:lower:]' '[:upper:]' <words", "tr -s '[:space:]' '\\n' <words", "tr -c '[:alnum:]' '[\\n*]' <words", "tr abc x <words", "tr '\\n' ' ' <a", "tr -d '[:space:]' <words", "tr 'a-c' '[x*2]z' <words", "tr -ds a e <words", "tr", "tr a", "tr z-a b <a", "tr -d a b <a", "tr '[:nosuch:]' x <a", "tr -t abc xy <words", "tr '\\141' X <words", "tr -cs a-z '\\n' <words", "tr a ''", "tr - _ <b", "tr '[=a=]' b <words",
	)
}

func TestCut(t *testing.T) {
	same(t,
		"cut -c 1-3 a", "cut -c 2- a", "cut -c -2 a", "cut -c 1,3 a", "cut -b 2 a", "cut -d : -f 2 words", "cut -d: -f 2- words", "cut -d : -f 1,3 words", "cut -s -d : -f 2 words", "cut -f 2 words", "cut -d ' ' -f 2,1 table", "cut --complement -d ' ' -f 2 table", "cut --output-delimiter=/ -d ' ' -f 1-2 table", "cut -c 1-3", "cut a", "cut -f 0 a", "cut -f 3-1 a", "cut -d ab -f 1 a", "cut -f - a", "cut -c 1-2,4 --output-delimiter=. a", "cut -d : -f 9 words", "cut -f 1 missing", "cut -c 2,1-1 a", "cut -d '' -f 1 a",
	)
}

func TestGrep(t *testing.T) {
	same(t,
		"grep two a", "grep two a b", "grep -h two a b", "grep -H two a", "grep -v two a", "grep -c two a b", "grep -l two a b empty", "grep -L two a b empty", "grep -n two a b", "grep -i ALPHA words", "grep -w beta words", "grep -x two a", "grep -o 't[a-z]*' a", "grep -q two a", "grep -q nothing a", "grep nothing a", "grep two missing a", "grep -s two missing", "grep -qs two missing a",
		"grep -E 'one|two' a", "grep 'one\\|two' a", "grep -F . words", "grep -F -x one a", "grep '^t' a", "grep 'e$' a", "grep '^$' words", "grep -e one -e two a", "grep -f a b", "grep -f empty a", "grep -r also d", "grep -rl e d | sort", "grep -r also", "grep -m 1 t a", "grep -A 1 two a", "grep -B 1 two a", "grep -C 1 two b", "grep -n -A1 -B1 two a b", "grep -c '' a", "grep '' b", "grep hello binary", "grep -c hello binary", "grep -a hello binary | wc -c",
		"egrep 'o+' a", "fgrep o a", "grep 'o\\{1\\}' a", "grep -E '(t)(wo|hree)' a", "grep '[[:upper:]]' words", "grep '[^a-z]' a", "grep 'a.c' words", "grep '*' words", "grep -E 't*' a", "grep -o . empty", "grep '\\.' words", "grep '\\<two\\>' a", "grep -z o a", "grep", "grep '[' a", "grep -E '(' a", "grep two d", "grep two <a", "grep -w t a", "grep -ow '[a-z]*' words", "grep -vc two a", "grep -nv two a", "grep -e", "grep -P", "echo 'a{1}' | grep 'a{1}'", "echo 'a+b' | grep 'a+b'", "echo a+b | grep -E 'a\\+b'", "echo 'x(y)' | grep 'x(y)'", "echo '^a' | grep 'x*^a'", "grep -o 'e' a", "grep -on 'e' a b", "grep -io ALPHA words", "grep --include=x -r in d", "grep --exclude=x -r e d | sort", "printf 'a\\nb\\n' | grep -v 'c'", "grep -A1 -m1 two a b", "grep -lv two a b", "grep -3 two a",
	)
}

func TestOtherText(t *testing.T) {
	same(t,
		"tac a", "tac a b", "tac missing", "tac", "rev a", "rev words", "nl a", "nl -b a words", "nl words", "nl -w 3 -s ': ' a", "nl -v 10 -i 5 a", "nl -b n a", "nl -b x a", "tee c <a", "tee -a a <b", "echo x | tee c e", "echo x | tee missing/c", "seq 5", "seq 2 5", "seq 1 2 10", "seq 5 -1 1", "seq -w 8 11", "seq -s , 4", "seq 1 .5 3", "seq 0.1 0.1 0.5", "seq 3 1", "seq 1 0 2", "seq x", "seq", "seq -f '%03g' 3", "seq -3 3", "seq -w -1 2", "seq 1.5", "seq 1e2 101", "seq 5 1", "seq -f x 1", "seq 1 1 1",
		"yes | head -n 3", "yes a b | head -n 2", "true", "false", "true --anything x", "paste a b", "paste -d , a b", "paste -s a", "paste -d ',;' a b table", "paste -s -d ' ' a b", "paste - - <table", "paste missing a", "base64 a", "base64 -w 5 a", "base64 -w 0 a", "base64 a | base64 -d", "echo '!!' | base64 -d", "echo 'b2 5l' | base64 -di", "base64 binary", "base64 missing", "head -c 100 /dev/zero | base64",
		"md5sum a b", "sha1sum a", "sha224sum a", "sha256sum a b", "sha384sum a", "sha512sum a", "sha256sum <a", "sha256sum missing a", "sha256sum a b >s; sha256sum -c s", "sha256sum a >s; echo x >>a; sha256sum -c s", "sha256sum a >s; rm a; sha256sum -c s", "echo bad | sha256sum -c", "md5sum a >s; md5sum --quiet -c s", "md5sum a >s; echo y >>a; md5sum --status -c s", "sha256sum -b a", "md5sum d",
		"strings binary", "strings -n 5 binary", "strings -t d binary", "strings -t x binary", "strings a", "hexdump -C binary", "hexdump binary", "hexdump -C -n 4 -s 2 a", "head -c 64 /dev/zero | hexdump -C", "head -c 64 /dev/zero | hexdump -v", "hexdump empty", "hd a", "hexdump -C missing", "seq 100 | hexdump | tail -n 3",
		"xxd a", "xxd binary", "xxd -p a", "xxd -g 1 a", "xxd -l 5 a", "xxd -s 3 a", "xxd -c 8 a", "xxd -u binary", "xxd a | xxd -r", "xxd -p a | xxd -r -p", "xxd empty",
	)
}

func TestXargs(t *testing.T) {
	same(t,
		"echo a b c | xargs", "echo a b c | xargs -n 1 echo x", "printf 'a b\\nc\\n' | xargs -I '{}' echo '<{}>'", "printf 'a\\0b c\\0' | xargs -0 -n 1", "xargs </dev/null", "xargs -r echo no </dev/null", "echo a | xargs -t echo 2>/dev/null", "echo 'a \"b c\" d' | xargs -n 1", "echo \"it's\" | xargs", "echo 'a\\ b' | xargs -n1", "echo x | xargs false", "echo x | xargs sh -c 'exit 3'", "echo x | xargs nosuchcommand", "echo a b c d | xargs -n 2", "printf 'a\\nb\\nc\\n' | xargs -L 1 echo l", "seq 5 | xargs -P 3 -n 1 | sort", "printf 'a,b,c' | xargs -d , -n 1", "xargs -a a echo", "seq 3 | xargs -I X sh -c 'echo X X'", "echo x | xargs sh -c 'exit 255'", "printf 'a\\nEND\\nb\\n' | xargs -E END", "seq 1000 | xargs -s 200 echo | wc -l",
	)
}

func TestArchives(t *testing.T) {
	same(t,
		"tar cf t.tar d && tar tf t.tar | sort; rm t.tar", "tar -cf t.tar a b hard link fifo; rm -rf x; mkdir x; tar -xf t.tar -C x; rm t.tar", "tar czf t.tgz d; mkdir x; tar xzf t.tgz -C x; rm t.tgz", "tar czf t.tgz d; tar tf t.tgz | sort; rm t.tgz", "tar cf - d | tar tf - | sort", "tar cf - d a | tar xOf - a", "tar cf - d | tar xf - -C /nonexistent", "tar cf - a | tar tvf -", "tar cf - d | tar tf - d/e | sort", "tar cf - d | tar tf - nosuch", "mkdir x; tar cf - d | tar x -C x --strip-components=1",
		"tar cf - --exclude=e d | tar tf - | sort", "tar cf - --exclude='*.9' v1.9 v1.10 | tar tf -", "tar cf - missing | tar tf -", "tar cvf t.tar d/e; rm t.tar", "tar xvf /dev/null", "tar", "tar cf t.tar", "tar cf - $PWD/a 2>/dev/null | tar tf - | sed 's|.*/||'", "tar cf - -C d x y | tar tf -", "tar cf - -C d x | tar xf - ; cat x", "printf 'a\\nb\\n' >l; tar cf - -T l | tar tf -; rm l", "umask 077; tar cf - exec d | (mkdir x; cd x; tar xpf -)", "tar cf - a | (mkdir x; cd x; echo old >a; tar xf -; cat a)", "tar cf - a | (mkdir x; cd x; echo old >a; tar xkf - 2>/dev/null; cat a)", "tar cf - -h link | tar tvf - | cut -c 1-10", "tar tf a", "tar cf - ./d | tar tf - | sort",
		"gzip a; gunzip a.gz", "gzip -c a | gunzip", "gzip -k a; zcat a.gz; rm a.gz", "gzip <a | gzip -dc", "gzip a; zcat a.gz; zcat a; rm a.gz", "gzip missing", "gzip d", "gunzip a", "gzip -d <a", "gzip -9c a | zcat", "gzip -c a b | zcat", "gzip a; gzip -t a.gz; gunzip a.gz", "gzip -k a; echo y >a; gunzip -f a.gz; cat a", "gzip a; cp a.gz c.tgz; gunzip c.tgz; ls; rm a.gz", "gzip -c a | head -c 10 | gunzip", "gzip -f a; rm a.gz; ls",
	)
}

// A signal that is to kill one of our programs comes late: until main begins, Go's own
// handlers take it.
func TestProcesses(t *testing.T) {
	same(t,
		"env -i A=1 env", "env -i A=1 B=2 env -u A", "env nosuchcommand", "env -C d pwd", "env -u HOME printenv HOME", "printenv HOME TZ", "printenv NOSUCH", "A='x y' env printenv A", "env false", "env -i sh -c 'echo $A'", "sleep 0", "sleep 0.01s", "sleep x", "sleep", "timeout 5 true", "timeout 5 false", "timeout 0.1 sleep 5", "sh -c 'timeout -s KILL 0.1 sleep 5' 2>/dev/null; echo $?", "timeout 1 nosuch", "timeout x true", "timeout --preserve-status 0.1 sleep 5", "timeout 5 sh -c 'exit 7'", "nice -n 5 nice", "nice", "nice nosuchcommand", "which sh >/dev/null", "which nosuch", "nohup echo hi", "setsid -w sh -c 'exit 5'", "setsid nosuch", "env kill -l 9", "env kill -l HUP", "env kill -0 $$", "env kill 999999999", "env kill", "env kill -NOSUCH 1", "sh -c 'env kill -TERM $$'; echo $?",
		"/bin/dash -c 'sleep 5 & sleep 0.2; env kill $!; wait $!; echo $?' 2>/dev/null", "/bin/dash -c 'sleep 9 & sleep 2; env kill -s USR1 $!; wait $!; echo $?' 2>/dev/null", "/bin/dash -c 'timeout --preserve-status -s QUIT 2 sleep 9' 2>/dev/null; echo $?", "/bin/dash -c 'timeout --preserve-status -s ALRM 2 sleep 9' 2>/dev/null; echo $?", "/bin/dash -c 'sleep 5 & env kill -9 $!; wait $!; echo $?' 2>/dev/null", "nproc", "uname", "uname -a", "uname -s -n -r -v -m -o", "uname -mrs", "uname -x", "uname x", "arch", "hostname", "hostname -s", "whoami", "id", "id -u", "id -un", "id -gn", "id -G", "id daemon", "id nosuch", "id -n", "groups", "groups daemon", "id -Gn daemon", "id -ru", "tty </dev/null", "tty -s </dev/null",
		"date -u -d @0", "date -d @86400 +%F", "date -d '2020-02-29 12:34:56' '+%Y %m %d %H %M %S %j %a %A %b %B %y %e %k %I %l %p %u %w %U %W %V %G %C %D %T %R %s %Z %z %:z %n%t%%'", "date -d 2020-01-05 +%-d.%-m.%_d", "date -R -d @0", "date -Iseconds -d @0", "date -I -d @0", "date --rfc-3339=seconds -d @0", "date -d 'nonsense'", "date -r a +%s", "date -d @1.5 +%s.%N", "date -d 'yesterday' +%F >/dev/null", "date +%Q", "date -d '2021-01-01 1 day' +%F 2>/dev/null || true", "date -d '2020-12-31' +%V.%G.%g", "date -d @0 +%P%p%^a%^B",
	)
}

func TestSed(t *testing.T) {
	same(t,
		"sed s/o/O/ a", "sed s/o/O/g a b", "sed -n 2p a", "sed -n '/two/p' a", "sed 2d a", "sed '$d' a", "sed '1,2d' a", "sed '/one/,/two/d' a", "sed '2,$s/e/E/2' a", "sed 's/\\(t\\)\\(.*\\)/\\2\\1/' a", "sed -E 's/(t)(.*)/\\2\\1/' a", "sed -r 's/[a-z]+/<&>/' a", "sed 's|one|/x/|' a", "sed 's,a\\,b,x,' a", "sed y/abc/xyz/ words", "sed = a", "sed -n '$=' a", "sed -n l words", "sed -n 'l 20' words", "sed 1q a", "sed -n '2{p;q}' a", "sed 1q5 a", "sed Q a",
		"sed '1a\\\nadded' a", "sed '1i inserted' a", "sed '2c changed' a", "sed '1,2c changed' a", "sed '$a end' a b", "sed '/two/r b' a", "sed 'w out' a", "sed -n 's/t/T/w out' a", "sed N a", "sed '$!N;s/\\n/-/' a", "sed -n 'H;${x;s/\\n/,/g;p}' a", "sed G a", "sed -n '1!G;h;$p' a", "sed ':a;N;$!ba;s/\\n/ /g' a", "sed 's/x/y/;ta;s/$/ no/;:a' words", "sed 's/one/1/;T;s/$/!/' a", "sed '1~2d' a", "sed '2~2d' a", "sed '0,/t/d' a", "sed '1,+1d' a", "sed '2,~2d' a", "sed '2!d' a", "sed '/^$/d' words", "sed 's/[[:space:]]*$//' words", "sed 's/a/b/I' words", "sed 's/.*/\\U&/' a", "sed 's/\\(.\\)\\(.*\\)/\\u\\1\\L\\2/' a", "sed 's/\\w*/[&]/g' words",
		"sed -e s/one/1/ -e s/two/2/ a", "printf 's/one/1/\n2d\n' >p; sed -f p a", "sed -i s/one/1/ a", "sed -i.bak s/one/1/ a", "sed -i 2d a b", "sed -i 1q a", "sed -s -n '$p' a b", "sed -n '$p' a b", "sed -n '$p' a empty", "sed p missing a", "sed", "sed k a", "sed 's/a/b' a", "sed 's/a/b/k' a", "sed '{p' a", "sed 'p}' a", "sed b9 a 2>/dev/null || echo bad", "sed '1,p' a", "sed 0p a", "sed s/o//2 a", "sed 's/b*/x/g' a", "sed 's/e*$/E/' a", "sed 's/^/> /' b", "sed -z 's/\\n/,/g' a", "sed -n '/two/{n;p}' a", "sed '/two/,/nothing/d' a", "sed '2,1p' a", "sed '/o/s//0/' a", "sed 's/\\./-/g' words", "sed 's/a\\|b/X/g' words", "sed D a", "sed '$!N;P;D' a", "sed -n x a", "sed 'n;d' a", "sed '#comment\nd' a", "sed -n '#n' a", "sed '#n\np' a", "sed --expression=p -n a", "sed s/two/'a\\\nb'/ a", "sed '/one/!s/^/x/' a", "sed -n '\\,two,p' a", "sed z a", "sed F a", "echo aaa | sed s/a/b/3", "sed '1d;n;d' b", "sed -E 's/^(.)|o/X/' a", "sed 's/[/]/x/' a", "sed 's/\\n/x/' a", "sed -i p d",
	)
}
