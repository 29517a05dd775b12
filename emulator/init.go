package emulator

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	sentryerr "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/umlkit/umlkit/emulator/klog"
)

// inits are the programs that are tried when init= is not given.
var inits = []string{"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"}

// start mounts the root and starts the first program. It returns why the machine has
// to end at once, or nil.
func (s *sentry) start() *ending {
	if died := s.mountRoot(); died != nil {
		return died
	}
	s.proc.MountNamespace = s.mounts
	table, err := s.openConsole()
	if err != nil {
		s.m.printk(klog.Err, "Warning: unable to open an initial console.")
	}
	defer table.DecRef(s.ctx)
	s.proc.FDTable = table
	s.proc.Envv = s.m.config.Env
	s.applySysctls()
	if died := s.runInit(); died != nil {
		return died
	}
	if err := s.k.Start(); err != nil {
		return panicked("%v", err)
	}
	go s.watchInit()
	return nil
}

// panicked is the ending of a kernel panic.
func panicked(format string, args ...any) *ending {
	return &ending{reason: Panicked, message: fmt.Sprintf(format, args...)}
}

// runInit finds the first program and readies its task.
func (s *sentry) runInit() *ending {
	c := s.m.config
	if s.inInitrd {
		errno := s.exec(s.rdInit())
		if errno == 0 {
			return nil
		}
		s.m.printk(klog.Err, "Failed to execute %s (error %d)", s.rdInit(), -int(errno))
	}
	if c.Init != "" {
		if errno := s.exec(c.Init); errno != 0 {
			return panicked("Requested init %s failed (error %d).", c.Init, -int(errno))
		}
		return nil
	}
	for _, name := range inits {
		switch errno := s.exec(name); errno {
		case 0:
			return nil
		case unix.ENOENT:
		default:
			s.m.printk(klog.Err, "Starting init: %s exists but couldn't execute it (error %d)", name, -int(errno))
		}
	}
	return panicked("No working init found.  Try passing init= option to kernel. " +
		"See Linux Documentation/admin-guide/init.rst for guidance.")
}

// exec readies the task of the program name.
func (s *sentry) exec(name string) unix.Errno {
	s.m.printk(klog.Info, "Run %s as init process", name)
	args := s.proc
	args.Filename = name
	args.Argv = append([]string{name}, s.m.config.Args...)
	s.m.printk(klog.Debug, "  with arguments:")
	for _, arg := range args.Argv {
		s.m.printk(klog.Debug, "    %s", arg)
	}
	s.m.printk(klog.Debug, "  with environment:")
	for _, entry := range args.Envv {
		s.m.printk(klog.Debug, "    %s", entry)
	}
	// CreateProcess says what is wrong in words only; the number is wanted.
	if errno := s.mayRun(name); errno != 0 {
		if errno != unix.EACCES {
			return errno
		}
		file, err := s.programOnDisk(name)
		if err != nil {
			return errnoOf(err)
		}
		defer file.DecRef(s.ctx)
		args.Filename, args.File = "", file
	}
	// The namespace's reference goes over to the process.
	s.mounts.IncRef()
	tg, _, err := s.k.CreateProcess(args)
	if err != nil {
		s.m.printk(klog.Debug, "%s: %v", name, err)
		return execErrno(err)
	}
	s.init = tg
	return 0
}

// mayRun looks whether the first process may execute a file.
func (s *sentry) mayRun(name string) unix.Errno {
	ctx := s.proc.NewContext(s.k)
	root := s.mounts.Root(ctx)
	defer root.DecRef(ctx)
	file, err := s.k.VFS().OpenAt(ctx, s.proc.Credentials, &vfs.PathOperation{
		Root: root, Start: root, Path: fspath.Parse(path.Clean("/" + name)), FollowFinalSymlink: true,
	}, &vfs.OpenOptions{Flags: linux.O_RDONLY, FileExec: true})
	if err != nil {
		return errnoOf(err)
	}
	file.DecRef(ctx)
	return 0
}

// execErrno is the number that the words of a failed start end in: a program whose
// interpreter is missing is ENOENT, as in Linux.
func execErrno(err error) unix.Errno {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EACCES, unix.ELIBBAD, unix.E2BIG, unix.ENOMEM, unix.ELOOP, unix.EISDIR, unix.EIO} {
		if strings.HasSuffix(err.Error(), ": "+errno.Error()) {
			return errno
		}
	}
	return unix.ENOEXEC
}

// openConsole makes the first program's descriptors 0, 1 and 2. The table is good
// even when there is an error.
func (s *sentry) openConsole() (*kernel.FDTable, error) {
	table := s.k.NewFDTable()
	ctx := s.proc.NewContext(s.k)
	root := s.mounts.Root(ctx)
	defer root.DecRef(ctx)
	file, err := s.k.VFS().OpenAt(ctx, s.proc.Credentials, &vfs.PathOperation{
		Root: root, Start: root, Path: fspath.Parse("/dev/console"), FollowFinalSymlink: true,
	}, &vfs.OpenOptions{Flags: linux.O_RDWR | linux.O_NOCTTY})
	if err != nil {
		return table, fmt.Errorf("open /dev/console: %w", err)
	}
	defer file.DecRef(ctx)
	for fd := int32(0); fd < 3; fd++ {
		if _, err := table.NewFDAt(ctx, fd, file, kernel.FDFlags{}); err != nil {
			return table, fmt.Errorf("descriptor %d of init: %w", fd, err)
		}
	}
	return table, nil
}

// watchInit turns the end of the first program into a panic. A request to end that
// came before, reboot(2) for one, wins.
func (s *sentry) watchInit() {
	s.init.WaitExited()
	s.request(*panicked("Attempted to kill init! exitcode=0x%08x", uint32(s.init.ExitStatus())))
}

// errnoOf is the number of an error of the Sentry's.
func errnoOf(err error) unix.Errno {
	var e *sentryerr.Error
	if errors.As(err, &e) {
		return unix.Errno(e.Errno())
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}
