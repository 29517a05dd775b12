package format

import "testing"

// The expected values are debugfs's: dx_hash -h VERSION [-s UUID] NAME.
func TestHashName(t *testing.T) {
	seed := [4]uint32{}
	uuid := [16]byte{0x98, 0x96, 0xda, 0x6f, 0x17, 0x03, 0x4d, 0xdd, 0xb4, 0x37, 0x73, 0x11, 0xa5, 0x34, 0xaa, 0xdf}
	for i := range seed {
		seed[i] = le.Uint32(uuid[4*i:])
	}
	long := "a-name-that-is-longer-than-thirty-two-bytes-for-sure"
	for _, c := range []struct {
		version     uint8
		seeded      bool
		name        string
		hash, minor uint32
	}{
		{HashLegacy, false, "a", 0xe74b53e2, 0},
		{HashLegacy, true, "hello.txt", 0x65a05776, 0},
		{HashLegacyUnsigned, true, long, 0xc6535ffc, 0},
		{HashLegacy, false, "zé", 0xe6179802, 0},
		{HashHalfMD4, false, "a", 0xd5fa7d7a, 0xacb48187},
		{HashHalfMD4, true, "a", 0x69f70c4c, 0x4360927d},
		{HashHalfMD4Unsigned, true, "a", 0x69f70c4c, 0x4360927d},
		{HashHalfMD4, false, "hello.txt", 0xa26e1d86, 0x133b3f98},
		{HashHalfMD4, true, long, 0x360b6d1e, 0xe58bc00c},
		{HashHalfMD4, true, "zé", 0x5acf1e0e, 0x44d70ba2},
		{HashTEA, false, "a", 0x6d0ea4c0, 0xc18922df},
		{HashTEA, true, "hello.txt", 0x4aaff0a8, 0x74086717},
		{HashTEA, true, long, 0xa4ff0138, 0xc7a4ae01},
		{HashTEA, true, "zé", 0xd92d1564, 0xa787f08f},
	} {
		var s [4]uint32
		if c.seeded {
			s = seed
		}
		hash, minor, ok := HashName([]byte(c.name), c.version, s)
		if !ok || hash != c.hash || minor != c.minor {
			t.Errorf("version %d of %q: %#x %#x, want %#x %#x", c.version, c.name, hash, minor, c.hash, c.minor)
		}
	}
	if _, _, ok := HashName([]byte("x"), HashSiphash, seed); ok {
		t.Error("siphash passes as known")
	}
	signed, _, _ := HashName([]byte("\xe9"), HashHalfMD4, seed)
	unsigned, _, _ := HashName([]byte("\xe9"), HashHalfMD4Unsigned, seed)
	if signed == unsigned {
		t.Error("signed and unsigned agree on a byte above 127")
	}
}
