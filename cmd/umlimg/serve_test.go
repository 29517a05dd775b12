package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/internal/oracle"
	"github.com/umlkit/umlkit/ubdfmt"
)

// server is an umlimg that serves.
type server struct {
	*exec.Cmd
	uri    string
	stderr bytes.Buffer
}

// startServer runs umlimg serve with these arguments, and waits until clients may come.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{Cmd: exec.Command(os.Args[0], append([]string{"serve"}, args...)...)}
	s.Env = append(os.Environ(), "RUN_UMLIMG=1")
	s.Stderr = &s.stderr
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Process.Kill()
		_ = s.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = s.Wait()
		t.Fatalf("%q: %v: %s", args, err, &s.stderr)
	}
	s.uri = strings.TrimSuffix(line, "\n")
	return s
}

// interrupt ends it, with success.
func (s *server) interrupt(t *testing.T, sig unix.Signal) {
	t.Helper()
	if err := s.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { s.Process.Kill() })
	defer stop.Stop()
	if err := s.Wait(); err != nil {
		t.Errorf("%v ends it with %v: %s", sig, err, &s.stderr)
	}
}

// At a TCP port, of this machine alone when no host is given; one that is taken is refused.
func TestServeTCP(t *testing.T) {
	dir := t.TempDir()
	image, other := filepath.Join(dir, "disk.img"), filepath.Join(dir, "other.img")
	must(t, "create", "--blank", "--size", "1M", image)
	must(t, "create", "--blank", "--size", "2M", other)
	for _, host := range []string{"", "127.0.0.1", "localhost"} {
		s := startServer(t, "--nbd", host+":0", "--name", "x", image)
		if !strings.HasPrefix(s.uri, "nbd://127.0.0.1:") || !strings.HasSuffix(s.uri, "/x") || strings.Contains(s.uri, ":0/") {
			t.Fatalf("%q listens at %q", host, s.uri)
		}
		if got := oracle.Run(t, "nbdinfo", "--size", s.uri); got != "1048576\n" {
			t.Errorf("the export's size is %q", got)
		}
		address := strings.TrimSuffix(strings.TrimPrefix(s.uri, "nbd://"), "/x")
		status, stdout, stderr := call("serve", "--nbd", address, other)
		if want := fmt.Sprintf("umlimg: serve %s: listen at %s: address already in use\n", other, address); status != 1 || stdout != "" || stderr != want {
			t.Errorf("status %d, %s%s, want %s", status, stdout, stderr, want)
		}
		s.interrupt(t, unix.SIGINT)
	}
	// With --json, in this process.
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"umlimg", "serve", "--json", "--nbd", "127.0.0.1:0", image}, strings.NewReader(""), w, io.Discard)
	}()
	var got served
	if err := json.NewDecoder(r).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Image != image || got.URI != "nbd://"+got.Address+"/" || got.Size != 1<<20 || got.ReadOnly {
		t.Errorf("%+v", got)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	if got := oracle.Run(t, "qemu-img", "info", "-f", "raw", got.URI); !strings.Contains(got, "virtual size: 1 MiB") {
		t.Errorf("qemu-img info says %s", got)
	}
	stop()
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
}

// Each signal ends it well, also while a client is connected; the log tells of the client.
func TestServeSignals(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		dir := t.TempDir()
		t.Chdir(dir)
		must(t, "create", "--blank", "--size", "1M", "disk.img")
		s := startServer(t, "-v", "--nbd", "unix:s", "disk.img")
		c, err := net.Dial("unix", "s")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
			t.Fatal(err)
		}
		s.interrupt(t, sig)
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("the client reads %q, %v", rest, err)
		}
		if got := s.stderr.String(); got != "umlimg: serve: client 1: connected\numlimg: serve: client 1: disconnected\n" {
			t.Errorf("the log has %q", got)
		}
		if left, _ := os.ReadDir("."); len(left) != 1 {
			t.Errorf("it leaves %v", left)
		}
	}
}

// A socket that somebody put in the place of ours stays.
func TestServeForeignSocket(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	must(t, "create", "--blank", "--size", "1M", "disk.img")
	s := startServer(t, "--nbd", "unix:s", "disk.img")
	if err := os.Remove("s"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("s", []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.interrupt(t, unix.SIGTERM)
	if b, err := os.ReadFile("s"); err != nil || string(b) != "another's" {
		t.Errorf("%q, %v", b, err)
	}
}

// The filesystem that was written over NBD is clean and whole: into a raw image, and into
// a COW file by what has changed.
func TestServeFilesystem(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	tree := manyFiles(t, 300)
	must(t, "create", "--from", tree, "--as-is", "--size", "32M", "want.img")
	must(t, "create", "--blank", "--size", "32M", "disk.img")
	oracle.Run(t, "mke2fs", "-q", "-t", "ext4", "base.img", "32M")
	must(t, "cow", "create", "disk.cow", "base.img")
	for _, image := range []string{"disk.img", "disk.cow"} {
		s := startServer(t, "--nbd", "unix:s", image)
		oracle.Run(t, "nbdcopy", "--flush", "want.img", s.uri)
		oracle.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", s.uri, "want.img")
		s.interrupt(t, unix.SIGTERM)
		must(t, "compare", image, "want.img")
		must(t, "convert", "--force", image, "got.img")
		oracle.Fsck(t, "got.img")
		must(t, "cp", "-r", image+":/", "out-"+image)
		oracle.Run(t, "diff", "-r", "-x", "lost+found", tree, "out-"+image)
	}
	must(t, "check", "disk.cow")
}

// Killed at any moment, the server leaves an image that is sound and holds what was
// flushed; the next server takes its place.
func TestServeKilled(t *testing.T) {
	kills := 4
	if oracle.Nightly() {
		kills = 100
	}
	dir := t.TempDir()
	t.Chdir(dir)
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 8))
	must(t, "create", "--blank", "--size", "64M", "base.img")
	must(t, "cow", "create", "disk.cow", "base.img")
	for i := range kills {
		s := startServer(t, "--nbd", "unix:s", "disk.cow")
		// The upper half is flushed, the lower one is not.
		oracle.Run(t, "qemu-io", "-t", "writeback", "-f", "raw", "-c", fmt.Sprintf("write -P %d 32M 32M", i+1), "-c", "flush", s.uri)
		writer := exec.Command(oracle.Tool(t, "qemu-img"), "bench", "-w", "-f", "raw", "-c", "1000000", "-d", "16", "-s", "3000", "-S", "2999808", "-o", "0", "--pattern", "255",
			"json:{\"driver\":\"raw\",\"size\":33554432,\"file\":{\"driver\":\"nbd\",\"path\":\"s\"}}")
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		_ = s.Process.Kill()
		_ = s.Wait()
		_ = writer.Wait()
		// Room that is taken by what was not flushed is no damage.
		report, err := ubdfmt.Check("disk.cow", ubdfmt.CheckOptions{})
		if err != nil || slices.ContainsFunc(report.Problems, func(p ubdfmt.Problem) bool { return p.Kind != ubdfmt.Leak }) {
			t.Fatalf("kill %d: %+v, %v", i, report.Problems, err)
		}
		dev, err := ubdfmt.OpenCOW("disk.cow", ubdfmt.COWOptions{Options: ubdfmt.Options{ReadOnly: true}})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 32<<20)
		if _, err := dev.ReadAt(got, 32<<20); err != nil {
			t.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, len(got))) {
			t.Fatalf("kill %d: what was flushed is not there", i)
		}
	}
}

// A host without room says so to the client that needs it, and to no other; with room
// again the same server goes on.
func TestServeFullHost(t *testing.T) {
	oracle.NeedsRoot(t)
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small)
	t.Cleanup(func() { oracle.Unmount(t, small) })
	base, cow, raw := filepath.Join(dir, "base.img"), filepath.Join(small, "disk.cow"), filepath.Join(small, "disk.img")
	must(t, "create", "--blank", "--size", "16M", base)
	must(t, "create", "--blank", "--size", "16M", raw)
	must(t, "cow", "create", cow, base)
	for _, image := range []string{cow, raw} {
		oracle.Run(t, "mount", "-o", "remount,size=2m", small)
		s := startServer(t, "--nbd", "unix:"+filepath.Join(dir, "s"), image)
		oracle.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", "-c", "flush", s.uri)
		out, err := exec.Command(oracle.Tool(t, "qemu-io"), "-f", "raw", "-c", "write -P 2 64k 8M", s.uri).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "No space left on device") {
			t.Errorf("%s: %v: %s", image, err, out)
		}
		oracle.Run(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 64k", "-c", "read -P 0 9M 1M", s.uri)
		oracle.Run(t, "mount", "-o", "remount,size=64m", small)
		oracle.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 2 64k 8M", "-c", "flush", "-c", "read -P 2 64k 8M", s.uri)
		s.interrupt(t, unix.SIGTERM)
		if image == cow {
			must(t, "check", cow)
			if err := os.Remove(cow); err != nil {
				t.Fatal(err)
			}
		}
	}
}
