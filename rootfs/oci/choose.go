package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	layersMax  = 1024 // of an image; Docker stops at 127
	imagesMax  = 4096 // of a layout or archive that are looked at
	nestingMax = 4    // indexes in indexes
)

// Annotations that name an image in a layout.
var nameAnnotations = []string{"org.opencontainers.image.ref.name", "io.containerd.image.name"}

// chooseLayout finds the image in a layout.
func (s *Source) chooseLayout() (*image, error) {
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	err := document(s.files, blob{name: "oci-layout", size: -1}, &layout)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("no OCI image layout: it has no file oci-layout")
	}
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(layout.Version, "1.") {
		return nil, fmt.Errorf("oci-layout: version %.20q, 1.0.0 is supported", layout.Version)
	}
	var index v1.IndexManifest
	if err := document(s.files, blob{name: "index.json", size: -1}, &index); err != nil {
		return nil, err
	}
	named, err := s.named(index.Manifests)
	if err != nil {
		return nil, err
	}
	c := &choice{s: s}
	if err := c.add(named, nil, 0); err != nil {
		return nil, err
	}
	return c.only()
}

// named are the images of an index that Reference names, or all.
func (s *Source) named(all []v1.Descriptor) ([]v1.Descriptor, error) {
	if s.Reference == "" {
		return all, nil
	}
	var found []v1.Descriptor
	var names []string
	for _, d := range all {
		match := s.Reference == "@"+d.Digest.String()
		for _, key := range nameAnnotations {
			if name := d.Annotations[key]; name != "" {
				names = append(names, name)
				match = match || name == s.Reference
			}
		}
		if match {
			found = append(found, d)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no image of that name; it has %s", list(names))
	}
	return found, nil
}

// list names some names.
func list(names []string) string {
	const most = 12
	if len(names) == 0 {
		return "none with a name"
	}
	short := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		short = append(short, fmt.Sprintf("%.100s", n))
	}
	text := strings.Join(short, ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// choice collects the images that may be meant.
type choice struct {
	s      *Source
	seen   int
	fits   []candidate
	others []string // platforms that are not wanted
}

type candidate struct {
	image
	digest v1.Hash
	top    v1.Descriptor // what it is in index.json, or in
}

// name is how Reference names it.
func (c *candidate) name() string {
	for _, key := range nameAnnotations {
		if name := c.top.Annotations[key]; name != "" {
			return ":" + name
		}
	}
	return "@" + c.top.Digest.String()
}

// add looks at the images of an index.
func (c *choice) add(descriptors []v1.Descriptor, top *v1.Descriptor, depth int) error {
	for _, d := range descriptors {
		if depth == 0 {
			top = &d
		}
		if c.seen++; c.seen > imagesMax {
			return fmt.Errorf("more than %d images", imagesMax)
		}
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "": // an attestation of buildkit's
		case d.Platform != nil && d.Platform.OS != "" && !d.Platform.Satisfies(c.s.Platform):
			c.others = append(c.others, d.Platform.String())
		case d.MediaType.IsIndex():
			if depth == nestingMax {
				return fmt.Errorf("indexes nest deeper than %d", nestingMax)
			}
			b, err := blobOf(d)
			if err != nil {
				return err
			}
			var index v1.IndexManifest
			if err := document(c.s.files, b, &index); err != nil {
				return err
			}
			if err := c.add(index.Manifests, top, depth+1); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			if err := c.look(d, *top); err != nil {
				return err
			}
		case depth == 0:
			return fmt.Errorf("%s is of the type %.100q, which is no container image", d.Digest, string(d.MediaType))
		}
	}
	return nil
}

// look takes an image whose configuration says that it is for the platform.
func (c *choice) look(d, top v1.Descriptor) error {
	for _, f := range c.fits {
		if f.digest == d.Digest {
			return nil // the same image under two names
		}
	}
	b, err := blobOf(d)
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := document(c.s.files, b, &m); err != nil {
		return err
	}
	if !m.Config.MediaType.IsConfig() {
		return fmt.Errorf("%s has a configuration of the type %.100q, which is no container image's", b.name, string(m.Config.MediaType))
	}
	config, err := blobOf(m.Config)
	if err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	found := candidate{digest: d.Digest, top: top}
	if err := document(c.s.files, config, &found.config); err != nil {
		return err
	}
	if p := found.config.Platform(); p != nil && !p.Satisfies(c.s.Platform) {
		c.others = append(c.others, p.String())
		return nil
	}
	for _, l := range m.Layers {
		lb, err := blobOf(l)
		if err == nil && (!l.MediaType.IsLayer() || strings.HasSuffix(string(l.MediaType), "+encrypted")) {
			err = fmt.Errorf("%s is of the type %.100q, which is no layer", l.Digest, string(l.MediaType))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		found.layers = append(found.layers, lb)
	}
	c.fits = append(c.fits, found)
	return nil
}

// only is the image, when there is one alone.
func (c *choice) only() (*image, error) {
	switch {
	case len(c.fits) == 1:
		m := c.fits[0].image
		return &m, m.check()
	case len(c.fits) == 0 && len(c.others) > 0:
		return nil, fmt.Errorf("no image for %s; there is %s: --platform chooses", c.s.Platform, list(c.others))
	case len(c.fits) == 0:
		return nil, errors.New("it holds no image")
	}
	var plain []candidate
	var names, platforms []string
	for _, f := range c.fits {
		if name := f.name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
		platforms = append(platforms, v1.Platform{OS: f.config.OS, Architecture: f.config.Architecture, Variant: f.config.Variant}.String())
		if f.config.Variant == "" {
			plain = append(plain, f)
		}
	}
	switch {
	case len(names) > 1:
		return nil, fmt.Errorf("%d images: name one of them, as %s:%s%s (%s)", len(names), c.s.Form, c.s.Path, names[0], list(names))
	case len(plain) == 1: // of several variants the one for all
		m := plain[0].image
		return &m, m.check()
	}
	return nil, fmt.Errorf("%d variants: --platform chooses one of %s", len(platforms), list(platforms))
}

// check says whether configuration and layers belong together.
func (m *image) check() error {
	if os := m.config.OS; os != "" && os != "linux" {
		return fmt.Errorf("the image is for %.40s, not for linux", os)
	}
	if kind := m.config.RootFS.Type; kind != "" && kind != "layers" {
		return fmt.Errorf("the configuration has a root of the type %.40q, not layers", kind)
	}
	if n := len(m.layers); n > layersMax {
		return fmt.Errorf("%d layers, the limit is %d", n, layersMax)
	}
	if have, said := len(m.layers), len(m.config.RootFS.DiffIDs); have != said {
		return fmt.Errorf("the manifest has %d layers, the configuration %d", have, said)
	}
	for _, id := range m.config.RootFS.DiffIDs {
		if _, err := blobOf(v1.Descriptor{Digest: id}); err != nil {
			return fmt.Errorf("the configuration: %w", err)
		}
	}
	return nil
}

// isNamed says whether a tag is the name that a user gives it: Docker's tools put a
// registry and a path before a name that has none, and ":latest" behind it.
func isNamed(tag, name string) bool {
	for _, n := range []string{name, name + ":latest"} {
		if tag == n || name != "" && strings.HasSuffix(tag, "/"+n) {
			return true
		}
	}
	return false
}

// chooseDocker finds the image in an archive of `docker save`. It gives no digests but
// those of the unpacked layers.
func (s *Source) chooseDocker() (*image, error) {
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	err := document(s.files, blob{name: "manifest.json", size: -1}, &manifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("no archive of `docker save`: it has no file manifest.json")
	}
	if err != nil {
		return nil, err
	}
	var names []string
	var found []int
	for i, m := range manifest {
		match := s.Reference == "" || s.Reference == "@"+strconv.Itoa(i)
		for _, tag := range m.RepoTags {
			names = append(names, tag)
			match = match || isNamed(tag, s.Reference)
		}
		if match {
			found = append(found, i)
		}
	}
	switch {
	case len(manifest) == 0:
		return nil, errors.New("it holds no image")
	case len(found) == 0:
		return nil, fmt.Errorf("no image of that name; it has %s", list(names))
	case len(found) > 1:
		return nil, fmt.Errorf("%d images: name one of them, as %s:%s@%d (%s)", len(found), s.Form, s.Path, found[0], list(names))
	}
	entry := manifest[found[0]]
	m := &image{}
	if err := document(s.files, blob{name: entry.Config, size: -1}, &m.config); err != nil {
		return nil, err
	}
	for _, name := range entry.Layers {
		m.layers = append(m.layers, blob{name: name, size: -1})
	}
	if p := m.config.Platform(); p != nil && !p.Satisfies(s.Platform) {
		return nil, fmt.Errorf("no image for %s; there is %s: --platform chooses", s.Platform, p)
	}
	return m, m.check()
}
