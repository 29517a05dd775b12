package nbd

import (
	"encoding/binary"
	"errors"
)

// errOption says that the data of an option makes no sense.
var errOption = errors.New("the option's data makes no sense")

// fields takes apart the data of an option. Once there was too little of it, nothing it
// returns has a meaning.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.bad = true
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) uint16() uint16 {
	if b := f.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (f *fields) uint32() uint32 {
	if b := f.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// text is a string behind its length.
func (f *fields) text() string {
	n := f.uint32()
	if n > maxString {
		f.bad = true
		return ""
	}
	return string(f.take(int(n)))
}

// err fails also when there is more data than was taken.
func (f *fields) err() error {
	if f.bad || len(f.b) > 0 {
		return errOption
	}
	return nil
}

// parseInfo reads the data of NBD_OPT_INFO and NBD_OPT_GO: the export's name and the kinds
// of information that the client asks for.
func parseInfo(data []byte) (name string, kinds []uint16, err error) {
	f := fields{b: data}
	name = f.text()
	for n := f.uint16(); n > 0 && !f.bad; n-- {
		kinds = append(kinds, f.uint16())
	}
	return name, kinds, f.err()
}

// parseMeta reads the data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: the
// export's name and the queries.
func parseMeta(data []byte) (name string, queries []string, err error) {
	f := fields{b: data}
	name = f.text()
	for n := f.uint32(); n > 0 && !f.bad; n-- {
		queries = append(queries, f.text())
	}
	return name, queries, f.err()
}
