package ubdfmt

// Options say how a disk is opened; the zero value opens it for writing. The flags
// are those of the kernel's `ubdN[rscdt]=`.
type Options struct {
	// ReadOnly refuses writes and trims with EROFS (flag r). A file that may only
	// be read is opened so without being asked: see the devices' ReadOnly methods.
	ReadOnly bool
	// Sync makes every write and trim stable before it returns (flag s).
	Sync bool
	// Shared takes no lock, so that several machines may open one file (flag c).
	Shared bool
	// NoCOW takes a file for a raw image whatever it begins with (flag d).
	NoCOW bool
	// NoTrim refuses trims with EOPNOTSUPP (flag t); a trim of no bytes tells.
	NoTrim bool
	// Alignment is the multiple at which bitmap and data of a new COW file begin, in
	// bytes; 0 is ours, 1 MiB. One that exists has its own.
	Alignment int64
	// Logf takes what the kernel's driver would log, one line a call, without a
	// newline. It may be nil.
	Logf func(format string, args ...any)
}

func (o Options) logf(format string, args ...any) {
	if o.Logf != nil {
		o.Logf(format, args...)
	}
}
