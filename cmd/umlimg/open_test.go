package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// A number behind # names a partition, unless a file has the whole name.
func TestOpenPartition(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "sgdisk", "-n", "1:2048:+1M", "-n", "2:0:+2M", image)
	dev, err := openImage(image+"#2", ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt([]byte("here"), 0); err != nil || dev.Size() != 2<<20 {
		t.Fatalf("%d bytes, %v", dev.Size(), err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(image)
	if err != nil || bytes.Index(data, []byte("here")) != 2<<20 {
		t.Fatalf("written at %d, %v", bytes.Index(data, []byte("here")), err)
	}
	for suffix, want := range map[string]string{"#3": "no partition 3: there are 1, 2", "#0": "no such file", "#x": "no such file", "#": "no such file"} {
		if _, err := openImage(image+suffix, ubdfmt.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", suffix, err, want)
		}
	}
	if err := os.WriteFile(image+"#2", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	dev, err = openImage(image+"#2", ubdfmt.Options{})
	if err != nil || dev.Size() != 1<<20 {
		t.Fatalf("a file with # in its name: %v", err)
	}
	dev.Close()
}
