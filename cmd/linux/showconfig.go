package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// features are what this kernel can truly do, under the names of a real kernel's build
// options: scripts look for them. TestShowConfig holds that a guest finds the filesystems.
var features = []string{
	"UML", "64BIT", "MMU", "MCONSOLE", "HOSTFS", "MAGIC_SYSRQ",
	"BLK_DEV", "BLK_DEV_UBD", "BLK_DEV_INITRD", "RD_GZIP", "RD_BZIP2", "RD_XZ", "RD_ZSTD", "PARTITION_ADVANCED", "MSDOS_PARTITION", "EFI_PARTITION",
	"TTY", "UNIX98_PTYS", "SSL", "NULL_CHAN", "PORT_CHAN", "PTY_CHAN", "TTY_CHAN", "XTERM_CHAN",
	"EXT4_FS", "EXT4_USE_FOR_EXT2", "EXT4_FS_POSIX_ACL", "EXT4_FS_SECURITY", "TMPFS", "DEVTMPFS", "DEVTMPFS_MOUNT", "PROC_FS", "PROC_SYSCTL",
	"SYSFS", "OVERLAY_FS", "FUSE_FS", "INOTIFY_USER", "POSIX_MQUEUE",
	"PRINTK", "BINFMT_ELF", "BINFMT_SCRIPT", "FUTEX", "EPOLL", "SIGNALFD", "TIMERFD", "EVENTFD", "SHMEM", "SYSVIPC",
	"NAMESPACES", "UTS_NS", "IPC_NS", "USER_NS", "PID_NS", "NET_NS", "CGROUPS", "SECCOMP", "SECCOMP_FILTER",
	"NET", "PACKET", "UNIX", "INET", "IPV6", "NETDEVICES", "UML_NET_VECTOR",
}

// absent are what scripts ask for and this kernel cannot do.
var absent = []string{"MODULES", "SWAP", "UML_TIME_TRAVEL_SUPPORT", "BLK_DEV_LOOP", "BLK_DEV_DM", "IA32_EMULATION", "GPROF", "GCOV"}

// showConfig is the text of --showconfig: what this kernel can do, as lines of a real
// kernel's configuration, and what the program was built from, in comments.
func showConfig() string {
	var b strings.Builder
	fmt.Fprintln(&b, "# What this kernel can do, by the names that real kernels have for it")
	for _, name := range features {
		fmt.Fprintf(&b, "CONFIG_%s=y\n", name)
	}
	if runtime.GOARCH == "amd64" {
		fmt.Fprintln(&b, "CONFIG_X86_64=y")
	}
	fmt.Fprint(&b, "CONFIG_CON_ZERO_CHAN=\"fd:0,fd:1\"\nCONFIG_CON_CHAN=\"xterm\"\nCONFIG_SSL_CHAN=\"null\"\n")
	for _, name := range absent {
		fmt.Fprintf(&b, "# CONFIG_%s is not set\n", name)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b.String()
	}
	fmt.Fprintf(&b, "# go=%s\n# module=%s %s\n", info.GoVersion, info.Main.Path, info.Main.Version)
	for _, d := range info.Deps {
		if d.Path == "gvisor.dev/gvisor" {
			fmt.Fprintf(&b, "# kernel=%s %s\n", d.Path, d.Version)
		}
	}
	for _, s := range info.Settings {
		fmt.Fprintf(&b, "# %s=%s\n", s.Key, s.Value)
	}
	return b.String()
}
