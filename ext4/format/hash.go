package format

import "math/bits"

// HashName gives a name's directory hash and its minor hash under a hash version
// (HashLegacy … HashTEAUnsigned) and a seed, which counts as the default seed when it
// is all zero. It reports false for a version it does not know.
func HashName(name []byte, version uint8, seed [4]uint32) (hash, minor uint32, ok bool) {
	buf := [4]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476}
	if seed != [4]uint32{} {
		buf = seed
	}
	signed := version < HashLegacyUnsigned
	switch version {
	case HashLegacy, HashLegacyUnsigned:
		hash = hashLegacy(name, signed)
	case HashHalfMD4, HashHalfMD4Unsigned:
		var in [8]uint32
		for n := name; len(n) > 0; n = n[min(32, len(n)):] {
			hashWords(in[:], n, signed)
			halfMD4(&buf, &in)
		}
		hash, minor = buf[1], buf[2]
	case HashTEA, HashTEAUnsigned:
		var in [4]uint32
		for n := name; len(n) > 0; n = n[min(16, len(n)):] {
			hashWords(in[:], n, signed)
			tea(&buf, &in)
		}
		hash, minor = buf[0], buf[1]
	default:
		return 0, 0, false
	}
	hash &^= 1
	if hash == HashEOF {
		hash = (0x7FFFFFFF - 1) << 1
	}
	return hash, minor, true
}

func char(c byte, signed bool) uint32 {
	if signed {
		return uint32(int32(int8(c)))
	}
	return uint32(c)
}

func hashLegacy(name []byte, signed bool) uint32 {
	h0, h1 := uint32(0x12A3FE2D), uint32(0x37ABE8F9)
	for _, c := range name {
		h := h1 + (h0 ^ char(c, signed)*7152373)
		if h&0x80000000 != 0 {
			h -= 0x7FFFFFFF
		}
		h1, h0 = h0, h
	}
	return h0 << 1
}

// hashWords packs the start of name into words, most significant byte first, and
// fills the rest with a pattern made from the length.
func hashWords(words []uint32, name []byte, signed bool) {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	if len(name) > len(words)*4 {
		name = name[:len(words)*4]
	}
	w, val := 0, pad
	for i, c := range name {
		val = char(c, signed) + val<<8
		if i%4 == 3 {
			words[w] = val
			w++
			val = pad
		}
	}
	if w < len(words) {
		words[w] = val
		w++
	}
	for ; w < len(words); w++ {
		words[w] = pad
	}
}

// halfMD4 is MD4's compression over half a block, with its rounds halved.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5A827999, 0x6ED9EBA1
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	f := func(x, y, z uint32) uint32 { return z ^ (x & (y ^ z)) }
	g := func(x, y, z uint32) uint32 { return (x & y) + ((x ^ y) & z) }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }

	for i := 0; i < 8; i += 4 {
		a = bits.RotateLeft32(a+f(b, c, d)+in[i], 3)
		d = bits.RotateLeft32(d+f(a, b, c)+in[i+1], 7)
		c = bits.RotateLeft32(c+f(d, a, b)+in[i+2], 11)
		b = bits.RotateLeft32(b+f(c, d, a)+in[i+3], 19)
	}
	for i := 1; i >= 0; i-- {
		a = bits.RotateLeft32(a+g(b, c, d)+in[i]+k2, 3)
		d = bits.RotateLeft32(d+g(a, b, c)+in[i+2]+k2, 5)
		c = bits.RotateLeft32(c+g(d, a, b)+in[i+4]+k2, 9)
		b = bits.RotateLeft32(b+g(c, d, a)+in[i+6]+k2, 13)
	}
	for _, j := range [2][4]int{{3, 7, 2, 6}, {1, 5, 0, 4}} {
		a = bits.RotateLeft32(a+h(b, c, d)+in[j[0]]+k3, 3)
		d = bits.RotateLeft32(d+h(a, b, c)+in[j[1]]+k3, 9)
		c = bits.RotateLeft32(c+h(d, a, b)+in[j[2]]+k3, 11)
		b = bits.RotateLeft32(b+h(c, d, a)+in[j[3]]+k3, 15)
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}

// tea is the Tiny Encryption Algorithm with the name as its key.
func tea(buf *[4]uint32, in *[4]uint32) {
	const delta = 0x9E3779B9
	b0, b1, sum := buf[0], buf[1], uint32(0)
	for range 16 {
		sum += delta
		b0 += (b1<<4 + in[0]) ^ (b1 + sum) ^ (b1>>5 + in[1])
		b1 += (b0<<4 + in[2]) ^ (b0 + sum) ^ (b0>>5 + in[3])
	}
	buf[0] += b0
	buf[1] += b1
}
