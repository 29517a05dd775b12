# Debian's tools at work on ext4: what they print is compared with a real kernel's.
cd "$1"
run() { echo "$ $*"; "$@" 2>&1; s=$?; [ $s = 0 ] || echo "status $s"; }
user() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }

# Flags.
echo content >f; mkdir d
run lsattr f; run lsattr -d d
run chattr +i f; run lsattr f
run sh -c 'echo more >>f'; run rm f; run mv f g; run ln f g; run touch f; run chmod 600 f; run setfattr -n user.x -v y f
run chattr -i f; run chattr +a f; run lsattr f
run sh -c 'echo more >>f'; run sh -c 'echo more >f'; run rm f; run truncate -s 0 f
run chattr -a f; run cat f
run chattr +dsuASDjtT d; run lsattr -d d
run chattr =d f; run lsattr f
run chattr +j f; run lsattr f; run chattr -j f
run chattr +A f; run lsattr f
run chattr -e f; run lsattr f
run chattr +c f; run chattr +C f; run chattr +F d; run chattr +V f; run chattr +x f; run chattr +m f; run lsattr f
chattr +dS d; echo x >d/in; mkdir d/sub; lsattr d | sort
run user chattr +i f; chown 1000 f; run user chattr +d f; run user chattr +i f; run user chattr +a f; run user chattr +j f
lsattr -v f | sed 's/^ *[0-9]* *//'
run chattr -v 77 f
run chattr -p 7 f; run lsattr -p f

# Where files lie.
frag() { filefrag -v "$1" | awk '/^ *[0-9]+:/ {gsub(/[.:]/, " "); print $2, $3, $6, ($NF ~ /[a-z]/ ? $NF : "")}'; } # the physical places differ
dd if=/dev/zero of=frag bs=4096 count=3 2>/dev/null; sync; run frag frag
dd if=/dev/zero of=frag bs=4096 count=2 seek=10 conv=notrunc 2>/dev/null; sync; run frag frag
fallocate -o 81920 -l 40960 frag; run frag frag
dd if=/dev/zero of=frag bs=4096 count=2 seek=24 conv=notrunc 2>/dev/null; sync; run frag frag
fallocate -n -o 200000 -l 40960 frag; run frag frag
fallocate -p -o 4096 -l 4096 frag; run frag frag
fallocate -c -o 0 -l 8192 frag; run frag frag
fallocate -i -o 4096 -l 8192 frag; run frag frag
fallocate -z -o 40960 -l 8192 frag; run frag frag
run stat -c '%s %b %B' frag
>empty; run filefrag empty
run filefrag d

# Access lists, attributes and capabilities.
run setfacl -m u:1000:rw,g:7:r f; run getfacl -n f; run stat -c %a f
run setfacl -d -m u:1000:rwx d; run getfacl -n d; echo x >d/inherits; run getfacl -n d/inherits; mkdir d/subdir; run getfacl -n d/subdir
run user sh -c 'echo by user >>f'; run chmod 640 f; run getfacl -n f; run setfacl -b f; run getfacl -n f
run setfattr -n user.one -v 1 f; run setfattr -n trusted.two -v 2 f; run setfattr -n security.three -v 3 f; run getfattr -d -m - f
run user getfattr -d -m - f; run user setfattr -n user.mine -v 4 f; run user setfattr -n trusted.mine -v 4 f; run user setfattr -n security.mine -v 4 f; run getfattr -d -m - f
run setfattr -n user.large -v "$(head -c 2500 /dev/zero | tr '\0' x)" f; run setfattr -n user.larger -v "$(head -c 5000 /dev/zero | tr '\0' x)" f
run getfattr --only-values -n user.large f | wc -c
run setfattr -x user.one f; run setfattr -x user.none f; run getfattr -m - f
cp /bin/capsh cap; run setcap cap_net_raw,cap_net_admin+ep cap; run getcap cap; run user ./cap --current | grep Current:
run setcap -v cap_net_raw,cap_net_admin+ep cap; cp cap copy; run getcap copy; echo >>cap; run getcap cap
run user setcap cap_net_raw+ep copy
mv copy moved; setcap cap_chown+ep moved; ln moved linked; run getcap linked; run chown 5 moved; run getcap moved

# What a capability is for. The kernels differ in who may ping without one, not in who
# may have a raw socket.
ip link set lo up
cp /bin/ping ping; setcap cap_net_raw+ep ping; user ./ping -c 1 -W 20 127.0.0.1 2>&1 | sed 's/ time.*//; s/,[^,]*$//; /^rtt/d'
cp /bin/perl raw; open='print socket(S, 2, 3, 1) ? "open\n" : "$!\n"'
run user ./raw -e "$open"; setcap cap_net_raw+ep raw; run user ./raw -e "$open"; setcap -r raw; run user ./raw -e "$open"
setcap cap_net_raw+ep raw; run user setpriv --no-new-privs ./raw -e "$open"
mount -o remount,nosuid /; run user ./raw -e "$open"; mount -o remount,suid /

# Space.
mkdir du; for i in 1 2 3 4 5; do dd if=/dev/zero of=du/$i bs=1000 count=$i 2>/dev/null; done
dd if=/dev/zero of=du/sparse bs=1 count=1 seek=1000000 2>/dev/null; ln du/5 du/hard; sync
run du -k du; run du -k --apparent-size du; du -ka du | awk '{print $1}' | sort
df -k . | awk 'NR==2 {print $2}'; df -i . | awk 'NR==2 {print $2}'
b=$(df -k . | awk 'NR==2 {print $3}'); dd if=/dev/zero of=space bs=1M count=20 2>/dev/null; sync
echo grew $(($(df -k . | awk 'NR==2 {print $3}') - b)); rm space; sync; echo back $(($(df -k . | awk 'NR==2 {print $3}') - b))
i=$(df -i . | awk 'NR==2 {print $3}'); for n in 1 2 3 4 5 6 7; do >inode$n; done; echo inodes $(($(df -i . | awk 'NR==2 {print $3}') - i))
run stat -f -c '%T %s %S %l' .
run stat -c '%W' f | sed 's/[1-9][0-9]*/known/'
