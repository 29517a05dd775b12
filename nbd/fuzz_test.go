package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// script is a connection whose client sends bytes, whatever it is answered, and hangs up.
type script struct {
	io.Reader
	mu     sync.Mutex
	out    bytes.Buffer
	limits []time.Time // of reading
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(t time.Time) error    { s.limits = append(s.limits, t); return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// talk serves a client that sends bytes, and returns what it was sent.
func talk(t *testing.T, in []byte) []byte {
	s := &Server{Export: Export{Name: "disk", Device: &fake{size: 1 << 20}}}
	nc := &script{Reader: bytes.NewReader(in)}
	s.ServeConn(context.Background(), 1, nc)
	if held := s.store.held.Load(); held != 0 {
		t.Fatalf("%d bytes are still held", held)
	}
	return nc.out.Bytes()
}

func FuzzHandshake(f *testing.F) {
	opt := func(opt uint32, data []byte) []byte { return wire(uint64(optionMagic), opt, uint32(len(data)), data) }
	f.Add(wire(uint32(3), opt(optList, nil), opt(optStructuredReply, nil), opt(optListMetaContext, metaData("disk")), opt(optSetMetaContext, metaData("disk", allocationName)), opt(optGo, nameData("disk", infoBlockSize))))
	f.Add(wire(uint32(1), opt(optExportName, []byte("disk"))))
	f.Add(wire(uint32(3), opt(optInfo, nameData("x", 0, 1, 2, 3)), opt(5, nil), opt(optAbort, nil)))
	f.Fuzz(func(t *testing.T, in []byte) {
		out := talk(t, in)
		if !bytes.HasPrefix(out, []byte("NBDMAGICIHAVEOPT\x00\x03")) {
			t.Fatalf("the greeting is %q", out)
		}
		// Whatever is answered, it is in whole replies.
		for out = out[18:]; len(out) >= 20 && binary.BigEndian.Uint64(out) == optionReplyMagic; {
			n := 20 + int(binary.BigEndian.Uint32(out[16:]))
			if n > len(out) {
				t.Fatalf("a reply of %d bytes, of which %d are there", n, len(out))
			}
			out = out[n:]
		}
	})
}

// FuzzRequests sends anything in the transmission phase. Every request that is whole is
// answered once, in the form that was negotiated, and nothing else is sent.
func FuzzRequests(f *testing.F) {
	req := func(flags, kind uint16, cookie, off uint64, n uint32) []byte {
		return wire(uint32(requestMagic), flags, kind, cookie, off, n)
	}
	f.Add(true, wire(req(0, cmdRead, 1, 0, 4096), req(0, cmdWrite, 2, 512, 4), "abcd", req(1, cmdFlush, 3, 0, 0), req(2, cmdWriteZeroes, 4, 0, 512), req(8, cmdBlockStatus, 5, 0, 1<<20), req(0, cmdDisc, 6, 0, 0)))
	f.Add(false, wire(req(0, cmdRead, 1, 0, 300<<10), req(0, cmdTrim, 2, 512, 512), req(0, cmdCache, 7, 512, 512), req(0, cmdRead, 3, 1<<20, 1), req(0, cmdWrite, 2, 512, 400)))
	f.Add(true, wire(req(4, cmdRead, 1, 0, 300<<10), req(0, cmdRead, 2, 0, 1<<20), req(0, 9, 2, 0, 1<<20)))
	f.Fuzz(func(t *testing.T, structured bool, in []byte) {
		hello := wire(uint32(3))
		if structured {
			hello = wire(hello, uint64(optionMagic), uint32(optStructuredReply), uint32(0), uint64(optionMagic), uint32(optSetMetaContext), uint32(8+4+len(allocationName)), metaData("", allocationName))
		}
		hello = wire(hello, uint64(optionMagic), uint32(optGo), uint32(6), nameData(""))
		before := len(talk(t, hello))
		out := talk(t, wire(hello, in))[before:]

		// What has to be answered.
		open := map[uint64][]request{}
		count := 0
		for terms := (terms{size: 1 << 20, structured: structured, allocation: structured}); len(in) >= requestLength; {
			r, err := decodeRequest(in)
			if err != nil || r.kind == cmdDisc {
				break
			}
			in = in[requestLength:]
			if r.kind == cmdWrite {
				if r.length > maxPayload || int(r.length) > len(in) {
					break
				}
				in = in[r.length:]
			}
			if r.kind == cmdRead && terms.check(r) != 0 {
				r.length = 0
			}
			open[r.cookie] = append(open[r.cookie], r)
			count++
		}
		if len(open) < count {
			return // of two requests with one cookie nobody could tell the replies apart
		}
		for len(out) > 0 {
			var cookie uint64
			var n int
			last := true
			switch binary.BigEndian.Uint32(out) {
			case simpleReplyMagic:
				n, cookie = 16, binary.BigEndian.Uint64(out[8:])
				if len(open[cookie]) > 0 && open[cookie][0].kind == cmdRead {
					if structured {
						t.Fatal("a simple reply to a read")
					}
					n += int(open[cookie][0].length)
				}
			case structuredReplyMagic:
				n, cookie = 20+int(binary.BigEndian.Uint32(out[16:])), binary.BigEndian.Uint64(out[8:])
				last = binary.BigEndian.Uint16(out[4:])&replyFlagDone != 0
				if !structured {
					t.Fatal("a structured reply was not negotiated")
				}
			default:
				t.Fatalf("%q is no reply", out)
			}
			if n > len(out) {
				t.Fatalf("a reply of %d bytes, of which %d are there", n, len(out))
			}
			out = out[n:]
			if len(open[cookie]) == 0 {
				t.Fatalf("cookie %d: there is nothing to be answered", cookie)
			}
			if last {
				delete(open, cookie)
			}
		}
		if len(open) > 0 {
			t.Fatalf("not answered: %v", open)
		}
	})
}
