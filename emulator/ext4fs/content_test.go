package ext4fs

import (
	"testing"

	"gvisor.dev/gvisor/pkg/safemem"
)

// TestReadInPlace holds that a read goes straight into the guest's memory, which the
// Sentry hands over as safe blocks, and past a buffer only where memory may fault.
func TestReadInPlace(t *testing.T) {
	memory := make([]byte, 8192)
	for i, test := range []struct {
		block   safemem.Block
		inPlace bool
	}{
		{safemem.BlockFromSafeSlice(memory), true},
		{safemem.BlockFromUnsafeSlice(memory), false},
	} {
		n, err := readBlock(test.block, func(p []byte) (int, error) {
			if inPlace := &p[0] == &memory[0]; inPlace != test.inPlace {
				t.Errorf("block %v: read in place %v, want %v", test.block, inPlace, test.inPlace)
			}
			p[len(p)-1] = byte(i + 1)
			return len(p), nil
		})
		if n != len(memory) || err != nil || memory[len(memory)-1] != byte(i+1) {
			t.Errorf("block %v: %d, %v, last byte %d", test.block, n, err, memory[len(memory)-1])
		}
	}
}
