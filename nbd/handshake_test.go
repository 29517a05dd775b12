package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	dev := image(t, 1<<20)
	s := serve(t, &Server{Export: Export{Name: "disk", Description: "a disk", Device: dev}})
	c := s.dial()
	c.put(uint32(3))
	flags := s.flags(false)
	export := answer{repInfo, string(wire(uint16(infoExport), uint64(1<<20), flags))}

	c.want("an option without a meaning", c.ask(77, []byte("what")), repErrUnsup)
	c.want("TLS", c.ask(5, nil), repErrUnsup)
	if got := c.ask(optList, nil); len(got) != 2 || got[0] != (answer{repServer, "\x00\x00\x00\x04diska disk"}) || got[1].kind != repAck {
		t.Errorf("LIST: %v", got)
	}
	c.want("LIST with data", c.ask(optList, []byte("x")), repErrInvalid)
	c.want("structured replies with data", c.ask(optStructuredReply, []byte("x")), repErrInvalid)
	for _, name := range []string{"", "disk"} {
		if got := c.ask(optInfo, nameData(name)); len(got) != 2 || got[0] != export || got[1].kind != repAck {
			t.Errorf("INFO %q: %v", name, got)
		}
	}
	got := c.ask(optInfo, nameData("disk", infoBlockSize, infoName, infoDescription, 1000))
	want := []answer{export, {repInfo, "\x00\x01disk"}, {repInfo, "\x00\x02a disk"}, {repInfo, string(wire(uint16(infoBlockSize), uint32(1), uint32(4096), uint32(32<<20)))}, {repAck, ""}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("INFO of all: %v\nwant %v", got, want)
	}
	for _, opt := range []uint32{optInfo, optGo} {
		c.want("another name", c.ask(opt, nameData("other")), repErrUnknown)
		for what, data := range map[string][]byte{
			"nothing": nil, "a cut length": {0, 0, 0}, "a name past the end": wire(uint32(5), "disk", uint16(0)), "no count": wire(uint32(4), "disk"),
			"too large a count": wire(uint32(0), uint16(2), uint16(infoName)), "more than there is": wire(nameData("disk"), "x"), "a long name": nameData(strings.Repeat("x", 4097)),
			"a huge name": wire(uint32(1<<32-1), "disk", uint16(0)),
		} {
			c.want(what, c.ask(opt, data), repErrInvalid)
		}
	}

	// Metadata contexts.
	c.want("SET before structured replies", c.ask(optSetMetaContext, metaData("", allocationName)), repErrInvalid)
	list := func(want int, name string, queries ...string) {
		t.Helper()
		got := c.ask(optListMetaContext, metaData(name, queries...))
		if len(got) != want+1 || want == 1 && got[0] != (answer{repMetaContext, "\x00\x00\x00\x00base:allocation"}) || got[want].kind != repAck {
			t.Errorf("LIST_META_CONTEXT of %q %q: %v", name, queries, got)
		}
	}
	list(1, "disk")
	list(1, "", "base:")
	list(1, "disk", "x-y:z", "base:allocation")
	list(0, "disk", "base:other", "allocation", "qemu:")
	c.want("LIST_META_CONTEXT of another", c.ask(optListMetaContext, metaData("other")), repErrUnknown)
	c.want("structured replies", c.ask(optStructuredReply, nil), repAck)
	if got := c.ask(optSetMetaContext, metaData("disk", "base:", "base:allocation", "base:allocation")); len(got) != 2 || got[0] != (answer{repMetaContext, "\x00\x00\x00\x01base:allocation"}) || got[1].kind != repAck {
		t.Errorf("SET_META_CONTEXT: %v", got)
	}
	c.want("SET_META_CONTEXT of a wildcard", c.ask(optSetMetaContext, metaData("disk", "base:")), repAck)
	for what, data := range map[string][]byte{
		"nothing": nil, "no count": wire(uint32(4), "disk"), "too large a count": wire(uint32(0), uint32(1<<32-1)), "a cut query": wire(uint32(0), uint32(1), uint32(9), "base:"),
		"more than there is": wire(metaData("disk"), "x"),
	} {
		c.want(what, c.ask(optSetMetaContext, data), repErrInvalid)
		c.want(what, c.ask(optListMetaContext, data), repErrInvalid)
	}
	c.want("more queries than are looked at", c.ask(optSetMetaContext, metaData("disk", strings.Split(strings.Repeat("base:allocation,", 5000), ",")...)), repErrTooBig)
	c.want("much data of an option without a meaning", c.ask(78, make([]byte, maxSkipped)), repErrUnsup)

	c.want("ABORT", c.ask(optAbort, []byte("whatever")), repAck)
	c.hungUp("ABORT")
}

// base:allocation has to be selected last for the name that is opened then, in an option
// that did not fail.
func TestContextSelection(t *testing.T) {
	s := serve(t, &Server{Export: Export{Name: "disk", Device: image(t, 1<<20)}})
	for _, test := range []struct {
		what     string
		set      []byte
		open     string
		selected bool
	}{
		{"nothing more", nil, "disk", true},
		{"the default export, opened by its name", metaData("", allocationName), "disk", false},
		{"the name, opened as the default export", nil, "", false},
		{"selected again", metaData("", allocationName), "", true},
		{"nothing selected", metaData("disk"), "disk", false},
		{"an option that fails", []byte("x"), "disk", false},
	} {
		for _, opt := range []uint32{optGo, optExportName} {
			c := s.dial()
			c.put(uint32(3))
			c.want("structured", c.ask(optStructuredReply, nil), repAck)
			c.structured = true
			c.want("set", c.ask(optSetMetaContext, metaData("disk", allocationName)), repMetaContext, repAck)
			if test.set != nil {
				c.ask(optSetMetaContext, test.set)
			}
			if opt == optGo {
				c.want("GO", c.ask(optGo, nameData(test.open)), repInfo, repAck)
			} else {
				c.option(optExportName, []byte(test.open))
				c.get(10)
			}
			if _, e := c.status(0, 0, 4096); (e == 0) != test.selected || e != 0 && e != einval {
				t.Errorf("%s, option %d: block status has error %d", test.what, opt, e)
			}
		}
	}
}

func TestExportName(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		s := serve(t, &Server{Export: Export{Name: "disk", Device: image(t, 1<<20), ReadOnly: readOnly}})
		for flags := range uint32(4) {
			c := s.dial()
			c.put(flags)
			c.option(optExportName, []byte("disk"))
			want := wire(uint64(1<<20), s.flags(false))
			if readOnly != (want[9]&flagReadOnly != 0) {
				t.Errorf("flags %#x of an export that is read-only: %v", want[8:], readOnly)
			}
			if flags&flagNoZeroes == 0 {
				want = append(want, make([]byte, 124)...)
			}
			if got := c.get(len(want)); string(got) != string(want) {
				t.Errorf("flags %d: %q", flags, got)
			}
			if e := c.do(0, cmdFlush, 0, 0); e != 0 {
				t.Errorf("flush: %d", e)
			}
			c.put(uint32(requestMagic), uint16(0), uint16(cmdDisc), uint64(0), uint64(0), uint32(0))
			c.hungUp("DISC")
		}
	}
}

// What cannot be answered ends the connection.
func TestHandshakeEnds(t *testing.T) {
	s := serve(t, &Server{Export: Export{Name: "disk", Device: image(t, 1<<20)}})
	for what, bytes := range map[string][]byte{
		"client flags without a meaning": wire(uint32(4)),
		"another name":                   wire(uint32(3), uint64(optionMagic), uint32(optExportName), uint32(5), "other"),
		"another magic":                  wire(uint32(3), uint64(optionMagic+1), uint32(optList), uint32(0)),
		"options of an old client":       wire(uint32(2), uint64(optionMagic), uint32(optList), uint32(0)),
		"much data":                      wire(uint32(3), uint64(optionMagic), uint32(optList), uint32(maxSkipped+1)),
		"all the data":                   wire(uint32(3), uint64(optionMagic), uint32(99), uint32(1<<32-1)),
		"a huge name":                    wire(uint32(3), uint64(optionMagic), uint32(optExportName), uint32(maxOption+1), make([]byte, maxOption+1)),
		"HTTP":                           []byte("GET / HTTP/1.1\r\nHost: disk\r\n\r\n"),
	} {
		c := s.dial()
		_, _ = c.Write(bytes) // it may have been ended already
		c.hungUp(what)
	}
}

// Who stays in the handshake is shown the door.
func TestHandshakeTime(t *testing.T) {
	s := serve(t, &Server{Export: Export{Device: image(t, 1<<20)}, HandshakeTime: 100 * time.Millisecond})
	for what, bytes := range map[string][]byte{
		"nothing": nil, "half the flags": {0, 0}, "half an option": wire(uint32(3), uint64(optionMagic)), "no data": wire(uint32(3), uint64(optionMagic), uint32(optGo), uint32(9)),
	} {
		nc, err := net.Dial("unix", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(time.Minute))
		_, _ = nc.Write(bytes) // which may be too late
		if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the server goes on to wait", what)
		}
		nc.Close()
	}
}

// Who came through the handshake may be silent for as long as it likes.
func TestNoTimeAfterHandshake(t *testing.T) {
	s := &Server{Export: Export{Device: &fake{size: 1 << 20}}}
	nc := &script{Reader: bytes.NewReader(wire(uint32(3), uint64(optionMagic), uint32(optGo), uint32(6), nameData("")))}
	s.ServeConn(context.Background(), 1, nc)
	if len(nc.limits) != 2 || time.Until(nc.limits[0]) > handshakeTime || !nc.limits[1].IsZero() {
		t.Errorf("the limits are %v", nc.limits)
	}
}

// A server of one connection ends with it.
func TestServeConn(t *testing.T) {
	ours, theirs := net.Pipe()
	var log []string
	s := &Server{Export: Export{Device: image(t, 1<<20)}, Logf: func(format string, a ...any) { log = append(log, fmt.Sprintf(format, a...)) }}
	done := make(chan struct{})
	go func() { s.ServeConn(context.Background(), 7, ours); close(done) }()
	buf := make([]byte, 18)
	if _, err := theirs.Read(buf); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	<-done
	if got := strings.Join(log, "; "); got != "client 7: connected; client 7: disconnected: it hung up midway" {
		t.Errorf("the log has %q", got)
	}
}
