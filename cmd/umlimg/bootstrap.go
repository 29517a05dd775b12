package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/ext4/mkfs"
	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/rootfs/debian"
	"github.com/umlkit/umlkit/rootfs/inside"
	"github.com/umlkit/umlkit/rootfs/tree"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/volume"
)

// suiteFlags are the options of create that say what Debian to make.
var suiteFlags = []string{"variant", "include", "components", "mirror", "arch", "keyring", "allow-unsigned", "linux"}

// debianKeyring is where Debian has the keys of its archive.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debianArches are Debian's names of processors.
var debianArches = map[string]string{"386": "i386", "amd64": "amd64", "arm": "armhf", "arm64": "arm64", "ppc64le": "ppc64el", "riscv64": "riscv64", "s390x": "s390x"}

// bootstrap is a suite of Debian, unpacked into an image of its own and configured there by
// dpkg, inside a machine: what that left is the source.
type bootstrap struct {
	*debian.Source
	path    string // of the image that will be, which the other lies beside
	machine inside.Machine

	stage *rootfs.Image
	dev   ubdfmt.Device
	vol   *volume.Volume
}

// suiteOf reads the options of a suite.
func suiteOf(c *cli.Context, path string) (*bootstrap, error) {
	for _, name := range []string{"from", "platform", "one-file-system"} {
		if c.IsSet(name) {
			return nil, usagef("--suite is a source of its own, so --%s has no meaning", name)
		}
	}
	own := debianArches[runtime.GOARCH]
	s := &debian.Source{Suite: c.String("suite"), Variant: c.String("variant"), Arch: own, Keyring: debianKeyring, AllowUnsigned: c.Bool("allow-unsigned"), Now: time.Now()}
	if strings.Trim(s.Suite, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" || s.Suite == "" || s.Suite[0] == '.' {
		return nil, usagef("--suite %q: a name such as bookworm", s.Suite)
	}
	if !slices.Contains(debian.Variants, s.Variant) {
		return nil, usagef("--variant %q: one of %s", s.Variant, strings.Join(debian.Variants, ", "))
	}
	if arch := c.String("arch"); c.IsSet("arch") && arch != own {
		return nil, usagef("--arch %s: packages are configured inside linux, which runs those of %s here", arch, own)
	}
	s.Include, s.Components = words(c, "include"), words(c, "components")
	if c.IsSet("keyring") {
		if s.AllowUnsigned {
			return nil, usagef("--allow-unsigned checks no signature, so --keyring has no meaning")
		}
		s.Keyring = c.String("keyring")
	} else if _, err := os.Stat(s.Keyring); err != nil && !s.AllowUnsigned {
		return nil, fmt.Errorf("the keys of Debian's archive are not at %s: name a file of them by --keyring", s.Keyring)
	}
	if s.Mirror = c.String("mirror"); s.Mirror == "" {
		var err error
		if s.Mirror, err = debian.AptMirror(debian.HostApt(), s.Suite); err != nil {
			return nil, err
		}
		if s.Mirror == "" {
			return nil, usagef("apt of this machine knows no archive of Debian's: name one by --mirror or UMLKIT_MIRROR")
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("a directory for what is fetched: %w", err)
	}
	s.Cache = filepath.Join(cache, "umlkit", "debian")
	b := &bootstrap{Source: s, path: path, machine: inside.Machine{Linux: c.String("linux"), Memory: 1024}}
	if b.machine.Umlbox, err = findUmlbox(c); err != nil {
		return nil, err
	}
	if b.machine.Linux == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		if b.machine.Linux, err = inside.Find(self); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// words are the values of an option, commas between them.
func words(c *cli.Context, name string) []string {
	return strings.FieldsFunc(strings.Join(c.StringSlice(name), ","), func(r rune) bool { return r == ',' || r == ' ' })
}

// stageSize is the size of the image in which packages are configured, in bytes. It is
// sparse.
const stageSize = 64 << 30

// Fill implements rootfs.Source.
func (b *bootstrap) Fill(ctx context.Context, t *tree.Tree, _ tree.Store) error {
	var err error
	// Beside the image, whose file system has the room.
	if b.stage, err = rootfs.NewImage(b.path+".stage", stageSize, false); err != nil {
		return err
	}
	b.stage.Unsynced = true
	if _, err := rootfs.Build(ctx, b.stage, b.Source, rootfs.Options{Filesystem: mkfs.Options{}}); err != nil {
		return err
	}
	b.machine.Disk = b.stage.Open()
	if err := b.machine.Run(ctx, debian.ConfigureProgram); err != nil {
		return fmt.Errorf("%s: configure the packages: %w", b, err)
	}
	if b.dev, err = ubdfmt.Open(fmt.Sprintf("/proc/self/fd/%d", b.machine.Disk.Fd()), "", ubdfmt.Options{ReadOnly: true, NoCOW: true}); err != nil {
		return err
	}
	if b.vol, err = volume.Open(b.dev, false); err != nil {
		return err
	}
	root, err := b.vol.Root()
	if err != nil {
		return err
	}
	if t.Root, err = b.vol.Read(ctx, root, "/"); err != nil {
		return err
	}
	t.Root.Remove("lost+found")
	return nil
}

// Close implements rootfs.Source.
func (b *bootstrap) Close() error {
	var errs []error
	if b.vol != nil {
		errs = append(errs, b.vol.Close())
	}
	if b.dev != nil {
		errs = append(errs, b.dev.Close())
	}
	if b.stage != nil {
		b.stage.Abort()
	}
	return errors.Join(errs...)
}
