package main

import (
	"os"
	"runtime"

	"github.com/urfave/cli/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/umlkit/umlkit/rootfs"
	"github.com/umlkit/umlkit/rootfs/builtin"
	"github.com/umlkit/umlkit/rootfs/hostdir"
	"github.com/umlkit/umlkit/rootfs/oci"
	"github.com/umlkit/umlkit/rootfs/tarball"
)

// sourceOf is what --from names.
func sourceOf(c *cli.Context, path string) (rootfs.Source, error) {
	if c.IsSet("suite") {
		b, err := suiteOf(c, path)
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	for _, name := range suiteFlags {
		if c.IsSet(name) && (name != "mirror" || os.Getenv("UMLKIT_MIRROR") == "") {
			return nil, usagef("--%s is for --suite", name)
		}
	}
	from := c.String("from")
	if from == "" {
		return nil, usagef("--from is empty: name a directory, a tar archive, a container image, or builtin")
	}
	image, isImage := oci.Parse(from, exists)
	if !isImage && c.IsSet("platform") {
		return nil, usagef("--platform is for a container image, not for --from %s", from)
	}
	if !isImage && from != "builtin" && c.IsSet("umlbox") {
		return nil, usagef("--umlbox is for the built-in userland and container images, not for --from %s", from)
	}
	if c.IsSet("one-file-system") && (isImage || from == "builtin") {
		return nil, usagef("--one-file-system is for a directory")
	}
	if (from == "-" || isImage && image.Path == "-") && c.String("root-password-file") == "-" {
		return nil, usagef("standard input cannot be both the archive and the password")
	}
	switch {
	case isImage:
		return image, fillImage(c, image)
	case from == "builtin":
		umlbox, err := findUmlbox(c)
		return &builtin.Source{Umlbox: umlbox}, err
	}
	if from != "-" {
		info, err := os.Stat(from)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return &hostdir.Source{Path: from, OneFileSystem: c.Bool("one-file-system")}, nil
		}
	}
	if c.IsSet("one-file-system") {
		return nil, usagef("--one-file-system is for a directory, and %s is none", from)
	}
	return &tarball.Source{Path: from, Stdin: c.App.Reader}, nil
}

// fillImage completes a container image by the options.
func fillImage(c *cli.Context, image *oci.Source) error {
	if image.Path == "" {
		return usagef("--from %s: name a layout or an archive behind the colon", c.String("from"))
	}
	image.Stdin = c.App.Reader
	image.Platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if text := c.String("platform"); c.IsSet("platform") {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.OS == "" || p.Architecture == "" || p.OSVersion != "" {
			return usagef("--platform %q: os/arch or os/arch/variant, as in linux/amd64", text)
		}
		if p.OS != "linux" {
			return usagef("--platform %s: images of linux boot, no others", text)
		}
		image.Platform = *p
	}
	if c.Bool("as-is") {
		if c.IsSet("umlbox") {
			return usagef("--as-is adds nothing, so --umlbox has no meaning")
		}
		return nil
	}
	var err error
	image.Umlbox, err = findUmlbox(c)
	return err
}

func findUmlbox(c *cli.Context) (string, error) {
	if umlbox := c.String("umlbox"); umlbox != "" {
		return umlbox, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return builtin.Find(self)
}

// exists says whether a file of the host is there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
