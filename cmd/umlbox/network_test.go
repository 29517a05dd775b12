package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/guest"
	"github.com/umlkit/umlkit/internal/oracle"
)

// ip is compared with iproute2's, in a network namespace of its own.
func TestIP(t *testing.T) {
	needsRoot(t)
	oracle.Tool(t, "ip")
	var scripts []string
	for _, s := range []string{
		"ip link", "ip link show lo", "ip addr", "ip a show dev lo", "ip -4 addr", "ip link set lo up; ip addr; ip -4 addr; ip -6 addr show lo", "ip link set lo up; ip -o addr", "ip link set dev lo mtu 1400 up; ip link show lo", "ip link show nosuch", "ip nonsense", "ip link nonsense || echo failed", "ip link set nosuch up", "ip route", "ip link show up",
		"ip link add d0 type dummy; ip addr add 10.1.2.3/24 dev d0; ip -4 addr show d0; ip link set d0 up; ip route; ip addr del 10.1.2.3/24 dev d0; ip -4 addr show d0", "ip link add d0 type dummy; ip link set d0 up; ip addr add 10.0.0.1/24 brd + dev d0; ip route add default via 10.0.0.2; ip route; ip route show default; ip route del default; ip route", "ip link add d0 type dummy; ip addr add 10.0.0.1/24 dev d0; ip addr add 10.0.0.1/24 dev d0", "ip link add d0 type dummy; ip link del d0; ip link | wc -l",
		"ip link add d0 type dummy; ip link set d0 address 02:00:00:00:00:01; ip link show d0; ip link set d0 name d1; ip link show d1 | head -n 1", "ip link add d0 type dummy; ip link set d0 up; ip addr add 10.0.0.1/24 dev d0; ip route add 10.9.0.0/16 via 10.0.0.7 metric 5; ip route add 10.8.0.1 dev d0; ip route; ip route get 10.9.1.1 | head -n 1 | cut -d ' ' -f 1-5; ip route replace 10.9.0.0/16 via 10.0.0.8 metric 5; ip route; ip route del 10.9.0.0/16", "ip route add 10.0.0.0/8 via 1.2.3.4", "ip route add blackhole 10.5.0.0/16; ip route", "ip addr add nonsense dev lo", "ip addr add 1.2.3.4",
		"ip link add d0 type dummy; ip addr add fd00::1/64 dev d0 nodad 2>/dev/null || ip addr add fd00::1/64 dev d0; ip link add b0 type bridge; ip link set d0 master b0; ip link show d0 | grep -o 'master b0'; ip link set d0 nomaster; ip link show d0 | grep -c master", "ip link add d0 type dummy; ip addr add 10.0.0.1/24 dev d0; ip addr add 10.0.0.2/24 dev d0; ip -4 addr show d0; ip addr flush dev d0; ip -4 addr show d0", "ip neigh", "ip link set lo up; ip link set lo down; ip link show lo", "ip link add v0 type veth peer name v1; ip link show v0 | head -n 1 | cut -d : -f 2", "ip addr add 10.0.0.1 peer 10.0.0.2 dev lo; ip -4 addr show lo", "ip addr add 127.0.0.5/8 dev lo label lo:x; ip -4 addr show lo",
	} {
		if strings.Contains(s, "'") {
			s = strings.ReplaceAll(s, "'", "\"")
		}
		scripts = append(scripts, "/usr/bin/unshare -n /bin/dash -c '"+s+"'")
	}
	same(t, scripts...)
}

func TestPing(t *testing.T) {
	needsRoot(t)
	for script, want := range map[string]string{
		"ip link set lo up; ping -c 2 -i 0.1 127.0.0.1": "2 packets transmitted, 2 packets received, 0% packet loss\nround-trip",
		"ip link set lo up; ping -c 1 -s 4000 ::1":      "4008 bytes from ::1: seq=0",
		"ip link set lo up; ping -q -c 1 127.0.0.1":     "1 packets received",
		"ping -c 1 -W 0.2 10.1.1.1; echo status $?":     "status 1",
		"ping -c 1 nosuchhost.invalid; echo status $?":  "status 2",
		"ip link set lo up; ip link add d0 type dummy; ip link set d0 up; ip addr add 10.0.0.1/24 dev d0; ping -w 1 -c 9 10.0.0.9; echo status $?": "100% packet loss\nstatus 1",
	} {
		cmd := exec.Command(oracle.Tool(t, "unshare"), "-n", filepath.Join(appletDir(t), "sh"), "-c", script)
		cmd.Env = []string{"PATH=" + appletDir(t)}
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Errorf("%s:\n%swant %q", script, out, want)
		}
	}
}

func umlbox(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(guest.Binary(t, "umlbox"), args...)
	cmd.Dir = t.TempDir()
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestWget(t *testing.T) {
	long := strings.Repeat("0123456789", 100_000)
	mux := http.NewServeMux()
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file", testTime, strings.NewReader(long))
	})
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		for i := range 100 {
			io.WriteString(w, long[i*10_000:(i+1)*10_000])
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/file", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/header", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Test"), r.UserAgent()) })
	s := httptest.NewServer(mux)
	defer s.Close()
	for _, path := range []string{"/file", "/chunked", "/away"} {
		if out, err := umlbox(t, "", "wget", "-q", "-O", "-", s.URL+path); err != nil || out != long {
			t.Errorf("%s: %v, %d bytes", path, err, len(out))
		}
	}
	if out, err := umlbox(t, "", "wget", "-qO-", "-U", "me", "--header", "X-Test: yes ", s.URL+"/header"); err != nil || out != "yesme" {
		t.Errorf("headers: %q, %v", out, err)
	}
	for path, want := range map[string]string{"/missing": "404", "/loop": "more than 20 redirections"} {
		if out, err := umlbox(t, "", "wget", s.URL+path); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q, %v", path, out, err)
		}
	}
	if out, err := umlbox(t, "", "wget", strings.Replace(s.URL, "http:", "https:", 1)); err == nil || !strings.Contains(out, "only http is spoken here") {
		t.Errorf("https: %q, %v", out, err)
	}
	dir := t.TempDir()
	part := filepath.Join(dir, "part")
	if err := os.WriteFile(part, []byte(long[:1234]), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time all is there
		if out, err := umlbox(t, "", "wget", "-c", "-O", part, s.URL+"/file"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if b, _ := os.ReadFile(part); string(b) != long {
			t.Errorf("continued: %d bytes", len(b))
		}
	}
}

// Answers that no server of good will sends.
func TestWgetHostile(t *testing.T) {
	for _, answer := range []string{
		"", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 2000),
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Read(make([]byte, 4096))
				io.WriteString(c, answer)
				c.Close()
			}
		}()
		out, err := umlbox(t, "", "wget", "-T", "5", "http://"+l.Addr().String()+"/x")
		if err == nil || strings.Contains(out, "panic") || out == "" {
			t.Errorf("%.60q: %v, %q", answer, err, out)
		}
		l.Close()
	}
}

func TestNc(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello\n")
			b, _ := io.ReadAll(c)
			select {
			case got <- string(b):
			default:
			}
			c.Close()
		}
	}()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if out, err := umlbox(t, "to the server\n", "nc", host, port); err != nil || out != "hello\n" {
		t.Errorf("%q, %v", out, err)
	}
	if s := <-got; s != "to the server\n" {
		t.Errorf("the server got %q", s)
	}
	if _, err := umlbox(t, "", "nc", "-z", host, port); err != nil {
		t.Errorf("nc -z: %v", err)
	}
	l.Close()
	if _, err := umlbox(t, "", "nc", "-z", host, port); err == nil {
		t.Error("nc -z of a closed port succeeds")
	}
	// One nc listens, the other one talks to it.
	sock := filepath.Join(t.TempDir(), "s")
	server := exec.Command(guest.Binary(t, "umlbox"), "sh", "-c", "umlbox=$0; echo reply | $umlbox nc -lU "+sock, guest.Binary(t, "umlbox"))
	out := make(chan string, 1)
	go func() {
		b, _ := server.Output()
		out <- string(b)
	}()
	waitFor(t, func() bool { _, err := os.Stat(sock); return err == nil })
	if text, err := umlbox(t, "question\n", "nc", "-U", sock); err != nil || text != "reply\n" {
		t.Errorf("the client got %q, %v", text, err)
	}
	if text := <-out; text != "question\n" {
		t.Errorf("the server got %q", text)
	}
}
