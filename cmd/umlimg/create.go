package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/settings"
)

// defaultSize is the HOWTO's. An image is sparse: it takes what is in it.
const defaultSize = "16G"

func createCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make a disk image with a root file system in it",
		Category:  "make images",
		ArgsUsage: "IMAGE",
		Description: `umlimg create --hostname uml disk.img
umlimg create --from /tmp/tree --size 4G --root-password-file secret disk.img
umlimg create --suite bookworm --include sysvinit-core --root-password-file secret debian.img
umlimg create --from oci:layout:latest --platform linux/amd64 app.img
docker save app | umlimg create --from docker-archive:- app.img
umlimg create --blank --size 100G data.img`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Value: "builtin", Usage: "take the root file system from a directory, a tar `archive` (plain, gzip, xz, zstd, bzip2; - for standard input), a container image (oci:LAYOUT[:NAME], docker-archive:FILE[:NAME]) or the built-in userland"},
			&cli.StringFlag{Name: "platform", Usage: "which of a container image's `os/arch[/variant]`; else linux and this machine's"},
			&cli.StringFlag{Name: "suite", Usage: "make Debian out of its packages: the `name` of a release, such as bookworm"},
			&cli.StringFlag{Name: "variant", Value: "minbase", Usage: "which packages: `one` of apt, minbase, important, standard"},
			&cli.StringSliceFlag{Name: "include", Usage: "`packages` besides, commas between them, may be repeated"},
			&cli.StringSliceFlag{Name: "components", Usage: "`parts` of the archive, commas between them; else main"},
			&cli.StringFlag{Name: "mirror", EnvVars: []string{"UMLKIT_MIRROR"}, Usage: "`URL` of the archive, or file:/DIRECTORY; else what apt of this machine uses"},
			&cli.StringFlag{Name: "arch", Usage: "Debian's `name` of the processor"},
			&cli.StringFlag{Name: "keyring", Usage: "`file` of keys that the archive may be signed by; else Debian's"},
			&cli.BoolFlag{Name: "allow-unsigned", Usage: "take an archive that nobody signed"},
			&cli.StringFlag{Name: "linux", Usage: "`program` in which packages are configured"},
			&cli.StringFlag{Name: "size", Value: defaultSize, Usage: "`size` of the disk in bytes, or with K, M, G, T"},
			&cli.StringFlag{Name: "partition", Usage: "put the file system into partition 1 of a `table`, gpt or mbr"},
			&cli.StringFlag{Name: "hostname", Usage: "`name` of the guest"},
			&cli.StringFlag{Name: "root-password", Usage: "root's `password`; empty lets root in without one"},
			&cli.StringFlag{Name: "root-password-file", Usage: "read root's password from a `file`; - for standard input"},
			&cli.StringFlag{Name: "interfaces", Usage: "network: dhcp (of vec0), `device`=dhcp, or a file to copy"},
			&cli.StringFlag{Name: "modules", Usage: "`directory` of kernel modules to put into /lib/modules"},
			&cli.BoolFlag{Name: "as-is", Usage: "edit nothing: fstab, host name and consoles stay as the source has them"},
			&cli.BoolFlag{Name: "blank", Usage: "make an empty disk, without a file system"},
			&cli.StringFlag{Name: "label", Usage: "volume `name` of the file system"},
			&cli.StringFlag{Name: "uuid", Usage: "`UUID` of the file system; else a random one"},
			&cli.StringSliceFlag{Name: "fs-option", Usage: "`option`=value of the file system, may be repeated: " + fsOptionNames()},
			&cli.StringFlag{Name: "owner", Usage: "`uid:gid` that owns every file"},
			&cli.StringSliceFlag{Name: "map-users", Usage: "`host:image[:count]`: change user numbers, may be repeated"},
			&cli.StringSliceFlag{Name: "map-groups", Usage: "`host:image[:count]`: change group numbers, may be repeated"},
			&cli.BoolFlag{Name: "one-file-system", Usage: "leave out what is mounted below the source directory"},
			&cli.StringFlag{Name: "umlbox", Usage: "`program` that is the built-in userland, and starts that of a container image"},
			&cli.BoolFlag{Name: "force", Usage: "overwrite an existing image"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: func(c *cli.Context) error {
			path, err := operand(c)
			if err != nil {
				return err
			}
			if err := create(c, path); err != nil {
				return fmt.Errorf("create %s: %w", path, err)
			}
			return nil
		},
	}
}

// operand is the one argument of a command. An option behind it is a mistake that
// would else go unnoticed.
func operand(c *cli.Context) (string, error) {
	args := c.Args().Slice()
	for _, a := range args[min(1, len(args)):] {
		if strings.HasPrefix(a, "-") {
			return "", usagef("%s: options come before %s: %s", c.Command.Name, args[0], a)
		}
	}
	if len(args) != 1 {
		return "", usagef("%s: name one image, not %d: umlimg %s [OPTION]... IMAGE", c.Command.Name, len(args), c.Command.Name)
	}
	if args[0] == "" {
		return "", usagef("%s: the image's name is empty", c.Command.Name)
	}
	return args[0], nil
}

// summary is what --json prints.
type summary struct {
	Image       string  `json:"image"`
	Size        int64   `json:"size"`
	Allocated   int64   `json:"allocated"`
	Source      string  `json:"source,omitempty"`
	UUID        string  `json:"uuid,omitempty"`
	Label       string  `json:"label,omitempty"`
	Table       string  `json:"table,omitempty"`
	PARTUUID    string  `json:"partuuid,omitempty"`
	Files       int64   `json:"files"`
	Directories int64   `json:"directories"`
	Symlinks    int64   `json:"symlinks"`
	Others      int64   `json:"others"`
	Entries     int64   `json:"entries"`
	Inodes      int64   `json:"inodes"`
	Bytes       int64   `json:"bytes"`
	Seconds     float64 `json:"seconds"`
}

func create(c *cli.Context, path string) error {
	start := time.Now()
	if err := mayName(path); err != nil {
		return err
	}
	size, err := parseSize(c.String("size"))
	if err != nil {
		return usagef("--size %q: %w", c.String("size"), err)
	}
	if c.Bool("blank") {
		for _, name := range c.LocalFlagNames() {
			switch name {
			case "mirror": // may come from the environment
			case "blank", "size", "force", "json":
			default:
				return usagef("--blank makes no file system, so --%s has no meaning", name)
			}
		}
	}
	p, err := planOf(c, path)
	defer p.close()
	if err != nil {
		return err
	}
	image, err := rootfs.NewImage(path, size, c.Bool("force"))
	if err != nil {
		return ofImage(path, err)
	}
	defer image.Abort()

	sum := summary{Image: path, Size: size}
	if !c.Bool("blank") {
		if dir, ok := p.source.(*hostdir.Source); ok {
			dir.Skip = image.Is
		}
		bar := newProgress(c.App.ErrWriter)
		p.options.Progress = bar.tell
		disk, err := p.disk(image)
		if err != nil {
			bar.finish()
			return ofImage(path, err)
		}
		built, err := rootfs.Build(c.Context, disk, p.source, p.options)
		bar.finish()
		if err != nil {
			return ofImage(path, p.withTable(err, size))
		}
		if p.table.Kind != "" {
			sum.Table, sum.PARTUUID = string(p.table.Kind), strings.ToLower(p.table.Partitions[0].UUID)
		}
		sum.Source, sum.UUID, sum.Label = p.source.String(), uuidText(p.options.Filesystem.UUID), p.options.Filesystem.Label
		sum.Files, sum.Directories, sum.Symlinks, sum.Others = built.Files, built.Directories, built.Symlinks, built.Others
		sum.Entries, sum.Inodes, sum.Bytes = built.Names, built.Inodes, built.Bytes
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if err := image.Commit(); err != nil {
		return ofImage(path, err)
	}
	if !c.Bool("json") {
		return nil
	}
	if sum.Allocated, err = allocated(path); err != nil {
		return err
	}
	sum.Seconds = time.Since(start).Seconds()
	return printJSON(c, sum)
}

// buildPlan is what the options of create ask for.
type buildPlan struct {
	source  rootfs.Source
	options rootfs.Options
	modules *settings.Modules
	table   partition.Table // of no kind without --partition
}

func (p *buildPlan) close() {
	if p.source != nil {
		p.source.Close()
	}
	if p.modules != nil {
		p.modules.Close()
	}
}

// planOf reads the options. All that can be wrong with them is said before anything
// is written. The plan is to be closed also after an error.
func planOf(c *cli.Context, path string) (*buildPlan, error) {
	p := &buildPlan{}
	if c.Bool("blank") {
		return p, nil
	}
	if err := p.filesystem(c); err != nil {
		return p, err
	}
	if err := p.partition(c); err != nil {
		return p, err
	}
	if err := p.owners(c); err != nil {
		return p, err
	}
	source, err := sourceOf(c, path)
	if err != nil {
		return p, err
	}
	p.source = source
	return p, p.edits(c)
}

// edits collects what is to be edited.
func (p *buildPlan) edits(c *cli.Context) error {
	if c.Bool("as-is") {
		for _, name := range []string{"hostname", "root-password", "root-password-file", "interfaces", "modules"} {
			if c.IsSet(name) {
				return usagef("--as-is edits nothing, so --%s has no meaning", name)
			}
		}
		return nil
	}
	if name := c.String("hostname"); c.IsSet("hostname") {
		if err := settings.CheckHostname(name); err != nil {
			return usageError{err}
		}
	}
	p.options.Settings = append(p.options.Settings, settings.Fstab{Device: p.device()}, settings.Hostname{Name: c.String("hostname")}, settings.Consoles{})
	if err := p.password(c); err != nil {
		return err
	}
	if err := p.interfaces(c); err != nil {
		return err
	}
	if dir := c.String("modules"); c.IsSet("modules") {
		m, err := settings.ReadModules(c.Context, dir)
		if err != nil {
			return err
		}
		p.modules = m
		p.options.Settings = append(p.options.Settings, m)
	}
	p.options.Settings = append(p.options.Settings, settings.OwnModules{})
	return nil
}

// passwordMax bounds a password, in bytes.
const passwordMax = 512

func (p *buildPlan) password(c *cli.Context) error {
	if !c.IsSet("root-password") && !c.IsSet("root-password-file") {
		return nil
	}
	if c.IsSet("root-password") && c.IsSet("root-password-file") {
		return usagef("--root-password and --root-password-file are two answers to one question")
	}
	password := c.String("root-password")
	if file := c.String("root-password-file"); c.IsSet("root-password-file") {
		data, err := readPassword(c.Context, file, c.App.Reader)
		if err != nil {
			return err
		}
		password = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	}
	if len(password) > passwordMax {
		return usagef("root's password has more than %d bytes", passwordMax)
	}
	if strings.ContainsAny(password, "\x00\n\r") {
		return usagef("root's password is more than one line, or holds a NUL")
	}
	s := settings.RootPassword{Password: password, Changed: p.options.Filesystem.Time}
	if p.options.Reproducible && c.IsSet("uuid") {
		s.Seed = settings.Seed(p.options.Filesystem.UUID, p.options.Filesystem.Time)
	}
	p.options.Settings = append(p.options.Settings, s)
	return nil
}

// readPassword reads a file that may be a pipe to which nobody writes: when the context
// ends it is left to itself.
func readPassword(ctx context.Context, file string, stdin io.Reader) ([]byte, error) {
	read := func() ([]byte, error) {
		in := stdin
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			in = f
		}
		data, err := io.ReadAll(io.LimitReader(in, passwordMax+2))
		if err != nil {
			return nil, fmt.Errorf("--root-password-file %s: %w", file, err)
		}
		return data, nil
	}
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := read()
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// interfacesMax bounds the file of --interfaces, in bytes.
const interfacesMax = 1 << 20

func (p *buildPlan) interfaces(c *cli.Context) error {
	value := c.String("interfaces")
	if !c.IsSet("interfaces") {
		return nil
	}
	s := settings.Interfaces{}
	if device, ok := strings.CutSuffix(value, "=dhcp"); ok {
		s.DHCP = device
	} else if value == "dhcp" {
		s.DHCP = settings.DefaultInterface
	}
	if s.DHCP != "" || strings.HasSuffix(value, "=dhcp") {
		if err := settings.CheckInterface(s.DHCP); err != nil {
			return usagef("--interfaces %s: %w", value, err)
		}
	} else {
		f, err := os.Open(value)
		if err != nil {
			return fmt.Errorf("--interfaces takes dhcp, DEVICE=dhcp or a file: %w", err)
		}
		defer f.Close()
		if s.File, err = io.ReadAll(io.LimitReader(f, interfacesMax+1)); err != nil {
			return fmt.Errorf("--interfaces: %w", err)
		}
		if len(s.File) > interfacesMax {
			return fmt.Errorf("--interfaces %s has more than %d bytes", value, interfacesMax)
		}
		s.Name = filepath.Base(value)
	}
	p.options.Settings = append(p.options.Settings, s)
	return nil
}

func (p *buildPlan) owners(c *cli.Context) error {
	if text := c.String("owner"); c.IsSet("owner") {
		if c.IsSet("map-users") || c.IsSet("map-groups") {
			return usagef("--owner gives all files to one, so --map-users and --map-groups have no meaning")
		}
		ids, err := parseIDs(text, 2, 2)
		if err != nil {
			return usagef("--owner %q: %w, as in 0:0", text, err)
		}
		p.options.Owners.All = &rootfs.Owner{UID: ids[0], GID: ids[1]}
	}
	for name, to := range map[string]*[]rootfs.IDs{"map-users": &p.options.Owners.Users, "map-groups": &p.options.Owners.Groups} {
		for _, text := range c.StringSlice(name) {
			ids, err := parseIDs(text, 2, 3)
			if err != nil {
				return usagef("--%s %q: %w, as in 1000:0 or 100000:0:65536", name, text, err)
			}
			r := rootfs.IDs{Host: ids[0], Image: ids[1], Count: 1}
			if len(ids) == 3 {
				r.Count = ids[2]
			}
			if r.Count == 0 || uint64(max(r.Host, r.Image))+uint64(r.Count) > idMax+1 {
				return usagef("--%s %q: a range from 1 to %d numbers, none above %d", name, text, uint32(idMax), uint32(idMax))
			}
			*to = append(*to, r)
		}
	}
	return nil
}

// idMax is the largest number of a user or group; the one after it is nobody's.
const idMax = 1<<32 - 2

func parseIDs(text string, least, most int) ([]uint32, error) {
	parts := strings.Split(text, ":")
	if len(parts) < least || len(parts) > most {
		return nil, errors.New("numbers with colons between them")
	}
	var ids []uint32
	for _, part := range parts {
		id, err := strconv.ParseUint(part, 10, 32)
		if err != nil || id > idMax {
			return nil, fmt.Errorf("%q is no number from 0 to %d", part, uint32(idMax))
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}
