#!/bin/sh
# Runs the tests of limits where cgroups are version 2 only: in a virtual machine, as root and as an ordinary user with and without
# delegation. The only argument is a static test binary of driver/local. It needs qemu-system-x86_64, a static busybox, cpio, and a kernel
# with cgroup2, which KERNEL names; ACCEL=kvm is faster where it works (Debian: apt-get install qemu-system-x86 busybox-static cpio linux-image-amd64).
set -eu
kernel=${KERNEL:-$(ls /boot/vmlinuz-* | tail -n 1)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

mkdir -p "$folder/bin" "$folder/root" "$folder/etc"
cp "$(command -v busybox)" "$folder/bin/busybox"
cp "$1" "$folder/local.test"

# A program can't change its root while that is the initial one, so all moves to another file system first.
cat >"$folder/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /root
/bin/busybox mkdir -p /root/usr/bin /root/proc /root/sys /root/dev /root/tmp /root/etc
/bin/busybox cp /bin/busybox /local.test /run.sh /root/usr/bin/
/bin/busybox ln -s usr/bin /root/bin
for name in $(/bin/busybox --list); do /bin/busybox ln -s busybox "/root/usr/bin/$name" 2>/dev/null; done
exec /bin/busybox switch_root /root /bin/sh /bin/run.sh
END
cat >"$folder/run.sh" <<'END'
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
chmod 1777 /tmp
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
ip link set lo up
echo root:x:0:0::/:/bin/sh >/etc/passwd
echo user:x:1000:1000::/tmp:/bin/sh >>/etc/passwd
echo user:x:1000: >/etc/group
group=/sys/fs/cgroup
tests='MemoryLimit|CPULimit|GoRuntime|Group|FailsLate'

run() { # NAME GROUP COMMAND...
	echo "== $1"
	name=$1 within=$2
	shift 2
	(cd /tmp && sh -c "echo \$\$ >$within/cgroup.procs; exec \"\$@\"" - "$@" >"/tmp/$name.log" 2>&1; echo "exit $?" >>"/tmp/$name.log")
	grep -v '^=== ' "/tmp/$name.log"
	tail -n 1 "/tmp/$name.log" | grep -q '^exit 0$' || failed=1
	case $name in
	*without*) ! grep -q '^--- SKIP' "/tmp/$name.log" && failed=1 ;; # the tests see that limits are refused, and skip the rest
	*) grep -q '^--- SKIP' "/tmp/$name.log" && failed=1 ;;
	esac
}
failed=0
run root $group local.test -test.v -test.run "$tests"

echo '+memory +cpu' >$group/cgroup.subtree_control
mkdir $group/slice $group/slice/session
echo '+memory +cpu' >$group/slice/cgroup.subtree_control
sleep 1000 & # somebody else in the group
echo $! >$group/slice/session/cgroup.procs
run root-in-a-slice $group/slice/session local.test -test.v -test.run "$tests"

mkdir $group/user
run user-without-delegation $group/user su user -c "exec local.test -test.v -test.run '$tests'"
chown user $group/user $group/user/cgroup.procs $group/user/cgroup.subtree_control
run user-with-delegation $group/user su user -c "exec local.test -test.v -test.run '$tests'"

mkdir $group/slice/user.scope # as systemd has those that it has not handed over, whose files belong to the user nevertheless
chown user $group/slice/user.scope $group/slice/user.scope/cgroup.procs $group/slice/user.scope/cgroup.subtree_control
run user-alone-in-a-unit-without-delegation $group/slice/user.scope su user -c "exec local.test -test.v -test.run '$tests'"
find $group/user $group/slice -type d
[ $failed = 0 ] && echo PASSED
poweroff -f
END
chmod +x "$folder/init"
(cd "$folder" && find . | cpio --quiet -o -H newc | gzip -1) >"$folder.img"
trap 'rm -rf "$folder" "$folder.img"' EXIT
qemu-system-x86_64 -accel "${ACCEL:-tcg}" -cpu max -m 1024 -smp 2 -nographic -no-reboot -net none -kernel "$kernel" -initrd "$folder.img" \
	-append 'console=ttyS0 quiet panic=-1' | tee "$folder/output"
grep -q '^PASSED' "$folder/output"
