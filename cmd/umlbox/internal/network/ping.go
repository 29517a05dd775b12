package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
	"golang.org/x/sys/unix"
)

const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	maxPayload               = 65507
)

type ping struct {
	e       *applet.Env
	to      netip.Addr
	fd      int
	raw     bool // the IPv4 header comes with every packet, and the checksum is ours
	id      uint16
	size    int
	sent    int
	got     int
	quiet   bool
	min     time.Duration
	max     time.Duration
	sum     time.Duration
	squares float64
}

// Ping asks a host whether it is there.
func Ping(e *applet.Env, args []string) error {
	p := &ping{e: e, size: 56, min: math.MaxInt64}
	count := 0
	interval, patience, deadline := time.Second, 10*time.Second, time.Duration(0)
	network := "ip"
	seconds := func(d *time.Duration) func(string) error {
		return func(s string) (err error) { *d, err = clock.Duration(s); return err }
	}
	var o applet.Options
	o.Int(&count, 'c', "")
	o.Int(&p.size, 's', "")
	o.Value('i', "", seconds(&interval))
	o.Value('W', "", seconds(&patience))
	o.Value('w', "", seconds(&deadline))
	o.Bool(&p.quiet, 'q', "")
	o.Func('4', "", func() { network = "ip4" })
	o.Func('6', "", func() { network = "ip6" })
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 || p.size < 0 || p.size > maxPayload {
		return applet.Usagef("one host is needed, and a size of 0 to %d", maxPayload)
	}
	if p.to, err = resolve(network, operands[0]); err != nil {
		return err
	}
	if err := p.open(); err != nil {
		return err
	}
	defer unix.Close(p.fd)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if deadline > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, deadline)
		defer cancel()
	}
	fmt.Fprintf(e.Stdout, "PING %s (%s): %d data bytes\n", operands[0], p.to, p.size)
	e.Stdout.Flush()
	for seq := 0; ctx.Err() == nil && (count <= 0 || seq < count); seq++ {
		begun := time.Now()
		if err := p.send(uint16(seq)); err != nil {
			e.Warnf("sendto: %s", applet.Reason(err))
		}
		wait := interval
		if count > 0 && seq == count-1 {
			wait = patience
		}
		p.receive(ctx, begun.Add(wait), count > 0 && seq == count-1)
		if rest := time.Until(begun.Add(interval)); rest > 0 && !(count > 0 && seq == count-1) {
			select {
			case <-time.After(rest):
			case <-ctx.Done():
			}
		}
	}
	p.summary(operands[0])
	if p.got == 0 {
		return applet.Status(1)
	}
	return nil
}

// resolve finds an address of a host.
func resolve(network, host string) (netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(context.Background(), network, host)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return netip.Addr{}, fmt.Errorf("%s: Name or service not known", host)
		}
		return netip.Addr{}, fmt.Errorf("%s: %w", host, err)
	}
	return addrs[0].Unmap(), nil
}

// open makes the socket: a datagram one where the kernel lets the group use
// it, else a raw one.
func (p *ping) open() (err error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if p.to.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	p.id = uint16(os.Getpid())
	if p.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto); err == nil {
		return nil
	}
	if p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto); err != nil {
		return fmt.Errorf("cannot open a socket: %s", applet.Reason(err))
	}
	p.raw = true
	return nil
}

func (p *ping) send(seq uint16) error {
	m := make([]byte, 8+p.size)
	m[0] = echoRequest4
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: p.to4()}
	if p.to.Is6() {
		m[0] = echoRequest6
		to = &unix.SockaddrInet6{Addr: p.to.As16(), ZoneId: zone(p.to.Zone())}
	}
	binary.BigEndian.PutUint16(m[4:], p.id)
	binary.BigEndian.PutUint16(m[6:], seq)
	if p.size >= 8 {
		binary.BigEndian.PutUint64(m[8:], uint64(time.Now().UnixNano()))
	}
	if !p.to.Is6() {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	p.sent++
	return unix.Sendto(p.fd, m, 0, to)
}

func (p *ping) to4() (a [4]byte) {
	if p.to.Is4() {
		a = p.to.As4()
	}
	return a
}

func zone(name string) uint32 {
	if name == "" {
		return 0
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// receive takes answers until the time; with last, until all have come.
func (p *ping) receive(ctx context.Context, until time.Time, last bool) {
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		rest := time.Until(until)
		if rest <= 0 || last && p.got >= p.sent {
			return
		}
		// Short waits: a signal or the deadline ends the run in between.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(min(rest, 200*time.Millisecond)/time.Millisecond)+1)
		if err != nil || n == 0 {
			continue
		}
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		if err != nil {
			if err != unix.EINTR && err != unix.EAGAIN {
				p.e.Warnf("recvfrom: %s", applet.Reason(err))
				return
			}
			continue
		}
		if p.answer(buf[:n], from) && !last {
			return
		}
	}
}

// answer shows a reply to us; everything else is passed over.
func (p *ping) answer(m []byte, from unix.Sockaddr) bool {
	want := byte(echoReply4)
	who := ""
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		who = netip.AddrFrom4(a.Addr).String()
	case *unix.SockaddrInet6:
		who, want = netip.AddrFrom16(a.Addr).String(), echoReply6
	}
	ttl := ""
	if p.raw && want == echoReply4 {
		if len(m) < 20 || len(m) < int(m[0]&15)*4 {
			return false
		}
		ttl = fmt.Sprintf(" ttl=%d", m[8])
		m = m[int(m[0]&15)*4:]
	}
	if len(m) < 8 || m[0] != want || p.raw && binary.BigEndian.Uint16(m[4:]) != p.id {
		return false
	}
	p.got++
	took := ""
	if len(m) >= 16 && p.size >= 8 {
		d := time.Duration(time.Now().UnixNano() - int64(binary.BigEndian.Uint64(m[8:])))
		p.min, p.max, p.sum = min(p.min, d), max(p.max, d), p.sum+d
		p.squares += d.Seconds() * d.Seconds()
		took = fmt.Sprintf(" time=%.3f ms", d.Seconds()*1000)
	}
	if !p.quiet {
		fmt.Fprintf(p.e.Stdout, "%d bytes from %s: seq=%d%s%s\n", len(m), who, binary.BigEndian.Uint16(m[6:]), ttl, took)
		p.e.Stdout.Flush()
	}
	return true
}

func (p *ping) summary(host string) {
	loss := 0
	if p.sent > 0 {
		loss = (p.sent - min(p.got, p.sent)) * 100 / p.sent
	}
	fmt.Fprintf(p.e.Stdout, "\n--- %s ping statistics ---\n%d packets transmitted, %d packets received, %d%% packet loss\n", host, p.sent, p.got, loss)
	if p.got > 0 && p.sum > 0 {
		mean := p.sum.Seconds() / float64(p.got)
		dev := math.Sqrt(max(p.squares/float64(p.got)-mean*mean, 0))
		fmt.Fprintf(p.e.Stdout, "round-trip min/avg/max/stddev = %.3f/%.3f/%.3f/%.3f ms\n",
			p.min.Seconds()*1000, mean*1000, p.max.Seconds()*1000, dev*1000)
	}
}
