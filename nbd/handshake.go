package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// errAborted ends a connection whose client wants no more of it.
var errAborted = errors.New("the client ended the handshake")

// handshake is the state of the first phase.
type handshake struct {
	*conn
	fixed, noZeroes bool   // the client's flags
	metaName        string // the export for which metadata contexts were selected
	out             []byte // what is to be sent
}

// negotiate leads a client through the handshake phase. When it returns no error the
// transmission phase begins, on the terms that are in c by then.
func (c *conn) negotiate() error {
	h := &handshake{conn: c}
	h.out = binary.BigEndian.AppendUint64(h.out, initMagic)
	h.out = binary.BigEndian.AppendUint64(h.out, optionMagic)
	h.out = binary.BigEndian.AppendUint16(h.out, flagFixedNewstyle|flagNoZeroes)
	if err := h.send(); err != nil {
		return err
	}
	var b [16]byte
	if _, err := io.ReadFull(c.in, b[:4]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("client flags %#x: only bits 0 and 1 have a meaning", flags)
	}
	h.fixed, h.noZeroes = flags&flagFixedNewstyle != 0, flags&flagNoZeroes != 0
	for {
		if _, err := io.ReadFull(c.in, b[:]); err != nil {
			return err
		}
		if magic := binary.BigEndian.Uint64(b[:]); magic != optionMagic {
			return fmt.Errorf("option: magic %#016x, not %#016x", magic, uint64(optionMagic))
		}
		opt, n := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		if !h.fixed && opt != optExportName {
			return fmt.Errorf("option %d of a client that does not know the fixed newstyle", opt)
		}
		data, err := h.data(n)
		if err != nil {
			return fmt.Errorf("option %d: %w", opt, err)
		}
		done, err := h.option(opt, data, n)
		if err == nil {
			err = h.send()
		} else if errors.Is(err, errAborted) {
			_ = h.send() // it may have gone already
		}
		if done || err != nil {
			return err
		}
	}
}

// data reads the data of an option; nil for more than is looked at, which is read over.
func (h *handshake) data(n uint32) ([]byte, error) {
	if n > maxSkipped {
		return nil, fmt.Errorf("%d bytes of data, the limit is %d", n, maxSkipped)
	}
	if n > maxOption {
		_, err := h.in.Discard(int(n))
		return nil, err
	}
	data := make([]byte, n)
	_, err := io.ReadFull(h.in, data)
	return data, err
}

func (h *handshake) send() error {
	if len(h.out) == 0 {
		return nil
	}
	_, err := h.nc.Write(h.out)
	h.out = h.out[:0]
	return err
}

// reply adds an answer to an option.
func (h *handshake) reply(opt, kind uint32, data ...[]byte) {
	n := 0
	for _, d := range data {
		n += len(d)
	}
	h.out = binary.BigEndian.AppendUint64(h.out, optionReplyMagic)
	h.out = binary.BigEndian.AppendUint32(h.out, opt)
	h.out = binary.BigEndian.AppendUint32(h.out, kind)
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(n))
	for _, d := range data {
		h.out = append(h.out, d...)
	}
}

func (h *handshake) refuse(opt, kind uint32, text string) { h.reply(opt, kind, []byte(text)) }

// known tells whether a client means the export by a name.
func (h *handshake) known(name string) bool { return name == "" || name == h.srv.Name }

// option answers an option. It is done when the transmission phase begins.
func (h *handshake) option(opt uint32, data []byte, n uint32) (done bool, err error) {
	switch opt {
	case optExportName, optAbort, optList, optInfo, optGo, optStructuredReply, optListMetaContext, optSetMetaContext:
		if n <= maxOption {
			break
		}
		if opt == optExportName {
			return false, fmt.Errorf("an export's name of %d bytes", n)
		}
		h.refuse(opt, repErrTooBig, fmt.Sprintf("%d bytes of data, the limit is %d", n, maxOption))
		return false, nil
	default:
		h.refuse(opt, repErrUnsup, fmt.Sprintf("option %d is not known", opt))
		return false, nil
	}
	switch opt {
	case optExportName:
		return true, h.exportName(string(data))
	case optAbort:
		h.reply(opt, repAck)
		return false, errAborted
	case optList, optStructuredReply:
		if len(data) > 0 {
			h.refuse(opt, repErrInvalid, "the option has no data")
			return false, nil
		}
		if opt == optList {
			h.list()
		} else {
			h.structured = true
			h.reply(opt, repAck)
		}
		return false, nil
	case optInfo, optGo:
		return h.info(opt, data), nil
	}
	h.metaContext(opt, data)
	return false, nil
}

// exportName answers NBD_OPT_EXPORT_NAME, which can only be granted: section "Newstyle
// negotiation".
func (h *handshake) exportName(name string) error {
	if !h.known(name) {
		return fmt.Errorf("no export of the name %.100q", name)
	}
	h.allocation = h.allocation && h.metaName == name
	h.out = binary.BigEndian.AppendUint64(h.out, uint64(h.size))
	h.out = binary.BigEndian.AppendUint16(h.out, h.srv.flags(h.structured))
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, 124)...)
	}
	return nil
}

// list answers NBD_OPT_LIST.
func (h *handshake) list() {
	length := binary.BigEndian.AppendUint32(nil, uint32(len(h.srv.Name)))
	h.reply(optList, repServer, length, []byte(h.srv.Name), []byte(h.srv.Description))
	h.reply(optList, repAck)
}

// info answers NBD_OPT_INFO and NBD_OPT_GO. It is done when the client may go on to the
// transmission phase.
func (h *handshake) info(opt uint32, data []byte) (done bool) {
	name, kinds, err := parseInfo(data)
	switch {
	case err != nil:
		h.refuse(opt, repErrInvalid, err.Error())
		return false
	case !h.known(name):
		h.refuse(opt, repErrUnknown, "there is no export of that name")
		return false
	}
	kind := func(k uint16) []byte { return binary.BigEndian.AppendUint16(nil, k) }
	size := binary.BigEndian.AppendUint64(kind(infoExport), uint64(h.size))
	h.reply(opt, repInfo, binary.BigEndian.AppendUint16(size, h.srv.flags(h.structured)))
	if slices.Contains(kinds, infoName) {
		h.reply(opt, repInfo, kind(infoName), []byte(h.srv.Name))
	}
	if slices.Contains(kinds, infoDescription) && h.srv.Description != "" {
		h.reply(opt, repInfo, kind(infoDescription), []byte(h.srv.Description))
	}
	if slices.Contains(kinds, infoBlockSize) {
		sizes := kind(infoBlockSize)
		for _, n := range []uint32{1, preferredBlock, maxPayload} {
			sizes = binary.BigEndian.AppendUint32(sizes, n)
		}
		h.reply(opt, repInfo, sizes)
	}
	h.reply(opt, repAck)
	if opt != optGo {
		return false
	}
	h.allocation = h.allocation && h.metaName == name
	return true
}

// metaContext answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT (section
// "Metadata querying"). A query of a context that does not exist is ignored.
func (h *handshake) metaContext(opt uint32, data []byte) {
	set := opt == optSetMetaContext
	if set {
		h.allocation = false // also when it fails
	}
	name, queries, err := parseMeta(data)
	switch {
	case err != nil:
		h.refuse(opt, repErrInvalid, err.Error())
		return
	case set && !h.structured:
		h.refuse(opt, repErrInvalid, "structured replies come before metadata contexts")
		return
	case !h.known(name):
		h.refuse(opt, repErrUnknown, "there is no export of that name")
		return
	}
	found := !set && len(queries) == 0
	for _, q := range queries {
		found = found || q == allocationName || !set && q == "base:"
	}
	if found {
		id := uint32(0) // a list has none
		if set {
			id, h.allocation, h.metaName = allocationID, true, name
		}
		h.reply(opt, repMetaContext, binary.BigEndian.AppendUint32(nil, id), []byte(allocationName))
	}
	h.reply(opt, repAck)
}

// handshakeLimit is when a handshake that begins now is given up.
func (s *Server) handshakeLimit() time.Time {
	limit := s.HandshakeTime
	if limit == 0 {
		limit = handshakeTime
	}
	return time.Now().Add(limit)
}
