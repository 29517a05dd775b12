// Package nbd serves a disk to others over the network block device protocol, that of
// qemu-img, nbdcopy and the Linux kernel's client.
//
// The protocol is described in doc/proto.md of github.com/NetworkBlockDevice/nbd; where a
// comment names a section, it is one of that document. A connection begins with the
// handshake phase, in which the client haggles over options and names an export, and goes
// over to the transmission phase, in which it sends requests and gets replies, as they are
// done and not in the order of the requests. Spoken is the fixed newstyle handshake, with
// structured replies and the metadata context base:allocation; not TLS: whoever reaches
// the listener reads and writes the disk.
//
// What a client sends is not trusted. It can end its own connection and nothing else: all
// it makes the server hold in memory is bounded, and so is the time for which it may stay
// in the handshake.
package nbd

import (
	"time"

	"github.com/umlkit/umlkit/ubdfmt"
)

// An Export is a disk under a name. There is one to a Server: a client that asks for the
// default export, which is the empty name, gets it, too.
type Export struct {
	// Name and Description are shown to clients that ask. Both are UTF-8 of at most 4096
	// bytes, the protocol's limit of a string (section "Conventions").
	Name, Description string

	// Device is the disk. It stays its owner's: the server closes nothing.
	Device ubdfmt.Device

	// ReadOnly refuses what would change the disk. A device that is read-only by itself
	// must be exported so: nothing else tells the client.
	ReadOnly bool
}

// A Server serves one export to any number of clients. Its fields are not to be changed
// while it serves.
type Server struct {
	Export

	// HandshakeTime is how long a client may take to come to the transmission phase; 0
	// means 30 seconds. From then on it may be silent for as long as it likes, as the
	// kernel is with a disk that nobody uses.
	HandshakeTime time.Duration

	// LingerTime is how long the replies of running requests may take once nothing more
	// is read: the client has gone, or the server shuts down. 0 means 10 seconds.
	LingerTime time.Duration

	// Logf takes one line for each client that comes and goes, and for each request that
	// the disk fails. It may be nil, and is called by several goroutines at once.
	Logf func(format string, args ...any)

	store store
}

// Limits of what a client can ask for.
const (
	// maxConns is how many clients there may be at once.
	maxConns = 256

	// maxString is the protocol's limit of a name or a query, in bytes.
	maxString = 4096

	// maxOption is the longest data of an option that is looked at, and maxSkipped the
	// longest that is read over to refuse it politely, in bytes.
	maxOption  = 64 << 10
	maxSkipped = 1 << 20

	// maxPayload is the most bytes that a request reads or brings along. It is the
	// protocol's default (section "Size constraints").
	maxPayload = 32 << 20

	// maxRequests is how many requests of a connection run at once. nbdcopy sends 64,
	// qemu 16.
	maxRequests = 64

	// preferredBlock is the unit in which a COW file copies up, in bytes: what is not
	// aligned to it costs a read.
	preferredBlock = 4096
)

const (
	handshakeTime = 30 * time.Second
	lingerTime    = 10 * time.Second
)

func (s *Server) logf(format string, args ...any) {
	if s.Logf != nil {
		s.Logf(format, args...)
	}
}

// flags are the export's transmission flags (section "Transmission flags"). All clients
// share one Device, whose Sync makes stable what any of them wrote: they may divide their
// work over several connections.
func (s *Server) flags(structured bool) uint16 {
	f := uint16(flagHasFlags | flagSendFlush | flagSendFUA | flagCanMultiConn | flagSendCache)
	if structured {
		f |= flagSendDF
	}
	if s.ReadOnly {
		return f | flagReadOnly
	}
	return f | flagSendTrim | flagSendWriteZeroes
}
