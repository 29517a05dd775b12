package ubdfmt

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The writer's rounds: in each it writes some blocks, each filled with the round's
// number, and says the number when a Sync has returned.
const (
	killSize   = 4 << 20
	killBlocks = killSize / blockSize
)

// roundBlocks are the blocks that a round writes, or trims if it is divisible by 5.
func roundBlocks(round uint32) []int {
	rng := rand.New(rand.NewPCG(11, uint64(round)))
	blocks := make([]int, 1+rng.IntN(20))
	for i := range blocks {
		blocks[i] = rng.IntN(killBlocks)
	}
	return blocks
}

func roundFill(round uint32) []byte {
	b := make([]byte, blockSize)
	if round%5 == 0 {
		return b
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], round)
	}
	return b
}

func writeForever(d Device) error {
	for round := uint32(1); ; round++ {
		fill := roundFill(round)
		for _, i := range roundBlocks(round) {
			off := int64(i) * blockSize
			if round%5 == 0 {
				if err := d.Trim(off, blockSize); err != nil {
					return err
				}
				continue
			}
			// In parts, so that the block is copied up.
			for _, part := range [][2]int64{{0, 1000}, {1000, 3000}, {3000, blockSize}} {
				if _, err := d.WriteAt(fill[part[0]:part[1]], off+part[0]); err != nil {
					return err
				}
			}
		}
		if err := d.Sync(); err != nil {
			return err
		}
		fmt.Println(round)
	}
}

// TestKilledWriter kills a machine at random moments. What was synced is there; what was
// not may be, by the sector; and nothing else.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base.img"), pattern(killSize, 3))
	total := uint32(0)
	kills := 8
	if testing.Short() {
		kills = 2
	}
	for n := range kills {
		cow := filepath.Join(dir, fmt.Sprint(n, ".cow"))
		if err := CreateCOW(cow, base, Options{}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "UBDFMT_HOLD=writer:"+cow)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(100+rand.IntN(200))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		synced := uint32(0)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var round uint32
			if _, err := fmt.Sscan(lines.Text(), &round); err != nil || round != synced+1 {
				t.Fatalf("the writer says %q after %d", lines.Text(), synced)
			}
			synced = round
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the writer ended by itself: %v", err)
		}
		total += synced
		checkKilled(t, cow, synced)
	}
	if total == 0 {
		t.Error("no round was ever synced")
	}
}

func checkKilled(t *testing.T, cow string, synced uint32) {
	t.Helper()
	want := pattern(killSize, 3)
	for round := uint32(1); round <= synced; round++ {
		for _, i := range roundBlocks(round) {
			copy(want[i*blockSize:], roundFill(round))
		}
	}
	// The round after may have been under way, or done and not yet told.
	after := map[int]bool{}
	for _, i := range roundBlocks(synced + 1) {
		after[i] = true
	}
	next := map[int]bool{}
	for _, i := range roundBlocks(synced + 2) {
		next[i] = true
	}
	d := mustOpen(t, cow, "", Options{})
	defer d.Close()
	got := make([]byte, killSize)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	one, two := roundFill(synced+1), roundFill(synced+2)
	for at := range got {
		i, k := at/blockSize, at%blockSize
		if got[at] == want[at] || after[i] && got[at] == one[k] || next[i] && got[at] == two[k] {
			continue
		}
		t.Fatalf("after round %d byte %d of block %d is %#x, want %#x", synced, k, i, got[at], want[at])
	}
}
