// Package oci reads a container image as the source of a disk image: an OCI image layout
// (a directory, or an archive of one), or what `docker save` writes. The layers go into
// the tree one over the other, whiteouts applied, their content to the disk as it is
// unpacked. What the image's configuration says is to run becomes an init; see Boot.
//
// Every blob is held against its digest, and every layer, unpacked, against that in the
// configuration. Sizes, counts and depths are bounded, and nothing outside the layout's
// directory is read. Types and names of formats are go-containerregistry's; its readers
// of layouts and archives are not used, as they hold whole documents of any size in
// memory and search an archive anew for each of its members.
package oci

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/umlkit/umlkit/rootfs/tarball"
	"github.com/umlkit/umlkit/rootfs/tree"
)

// Form is how an image is stored.
type Form string

// Layout is an OCI image layout, Docker the archive of `docker save`.
const (
	Layout Form = "oci"
	Docker Form = "docker-archive"
)

// Source is a container image. It is used once.
type Source struct {
	Form Form

	// Path is the layout's directory or the archive, "-" for Stdin.
	Path  string
	Stdin io.Reader

	// Reference chooses an image where there are several: a name that the layout or
	// archive gives it, "@sha256:…", or in an archive of Docker "@0" for its first.
	Reference string

	// Platform is what the image is to be for. Fields that are empty do not matter.
	Platform v1.Platform

	// Umlbox is the program that runs what the image is for; see Boot. Without it no init
	// is written.
	Umlbox string

	files files
	done  atomic.Int64 // bytes of layers, as they are packed
	total atomic.Int64
}

// prefixes of --from.
var prefixes = []struct {
	prefix string
	form   Form
}{
	{"oci-layout://", Layout}, {"oci-layout:", Layout}, {"oci-archive:", Layout}, {"oci:", Layout}, {"docker-archive:", Docker},
}

// Parse reads a source as skopeo names it: FORM:PATH, FORM:PATH:REFERENCE or
// FORM:PATH@DIGEST. It says whether it is one.
func Parse(text string, exists func(path string) bool) (*Source, bool) {
	for _, p := range prefixes {
		path, ok := strings.CutPrefix(text, p.prefix)
		if !ok {
			continue
		}
		s := &Source{Form: p.form, Path: path}
		if exists(path) {
			return s, true
		}
		if name, ref, ok := strings.Cut(path, ":"); ok && !strings.Contains(name, "@") {
			s.Path, s.Reference = name, ref
		} else if at := strings.LastIndexByte(path, '@'); at >= 0 {
			s.Path, s.Reference = path[:at], path[at:]
		}
		return s, true
	}
	return nil, false
}

// String names the source in messages.
func (s *Source) String() string {
	name := s.Path
	if name == "-" {
		name = "standard input"
	}
	switch {
	case strings.HasPrefix(s.Reference, "@"):
		return name + s.Reference
	case s.Reference != "":
		return name + ":" + s.Reference
	}
	return name
}

// Progress is how many bytes of the layers were read, and how many there are.
func (s *Source) Progress() (done, total int64) { return s.done.Load(), s.total.Load() }

// image is what was chosen: where its configuration and its layers are.
type image struct {
	config v1.ConfigFile
	layers []blob
}

// blob is a member of a layout or archive.
type blob struct {
	name   string  // its path there
	digest v1.Hash // of its bytes; empty in an archive of Docker, which gives none
	size   int64   // -1 where it was not said
}

// Fill implements rootfs.Source.
func (s *Source) Fill(ctx context.Context, t *tree.Tree, store tree.Store) error {
	if err := s.fill(ctx, t, store); err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

func (s *Source) fill(ctx context.Context, t *tree.Tree, store tree.Store) error {
	files, err := openFiles(ctx, s)
	if err != nil {
		return err
	}
	s.files = files
	var m *image
	if s.Form == Docker {
		m, err = s.chooseDocker()
	} else {
		m, err = s.chooseLayout()
	}
	if err != nil {
		return err
	}
	if err := s.measure(m); err != nil {
		return err
	}
	var layers tarball.Layers
	room := int64(unpackedMax)
	for i, l := range m.layers {
		name := fmt.Sprintf("layer %d of %d (%s)", i+1, len(m.layers), l.name)
		if err := s.add(ctx, name, &layers, &room, l, m.config.RootFS.DiffIDs[i], t, store); err != nil {
			return err
		}
	}
	if s.Umlbox == "" {
		return nil
	}
	return Boot(t, &m.config, s.Umlbox)
}

// Close implements rootfs.Source.
func (s *Source) Close() error {
	if s.files == nil {
		return nil
	}
	err := s.files.close()
	s.files = nil
	return err
}
