package format

// Time is a point in time: seconds since 1970 (before it: negative) and nanoseconds,
// 0 to 999,999,999.
type Time struct {
	Sec  int64
	Nsec uint32
}

const (
	// MinTimeSec and MaxTimeSec bound what an inode with extra fields can hold:
	// 1901-12-13 to 2446-05-10.
	MinTimeSec = -1 << 31
	MaxTimeSec = 1<<34 - 1<<31 - 1
	// MaxTimeSec32 is the last second that an inode of 128 bytes can hold.
	MaxTimeSec32 = 1<<31 - 1
)

// DecodeTime joins a time's 32-bit seconds and its extra word: two epoch bits below
// 30 bits of nanoseconds. Nanoseconds beyond a second, which no kernel writes, count
// as 0.
func DecodeTime(sec, extra uint32) Time {
	t := Time{Sec: int64(int32(sec)) + int64(extra&3)<<32, Nsec: extra >> 2}
	if t.Nsec > 999999999 {
		t.Nsec = 0
	}
	return t
}

// Encode splits t into the 32-bit seconds and the extra word. Seconds out of range
// become the nearest that fit.
func (t Time) Encode() (sec, extra uint32) {
	t.Sec = min(max(t.Sec, MinTimeSec), MaxTimeSec)
	epoch := uint32((t.Sec-int64(int32(t.Sec)))>>32) & 3
	return uint32(t.Sec), epoch | t.Nsec<<2
}

// Encode32 gives the seconds for an inode without extra fields, the nearest that fit.
func (t Time) Encode32() uint32 {
	return uint32(min(max(t.Sec, MinTimeSec), MaxTimeSec32))
}
