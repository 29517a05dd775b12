package ext4

import (
	"errors"
	"sync"

	"github.com/umlkit/umlkit/ext4/format"
	"golang.org/x/sys/unix"
)

type txn struct {
	tableMu sync.Mutex // held while inodes are copied to and from their table blocks
}

func (t *txn) init(fs *FS) {}

type group struct {
	mu   sync.Mutex
	desc format.GroupDesc
}
type window struct{}
type orphanLink struct{}
type orphanList struct{}

func (fs *FS) corrupt(err *CorruptError) error { return err }
func (fs *FS) startWriting() error             { return nil }
func unixIs(err error, no unix.Errno) bool     { return errors.Is(err, no) }
