package ubdfmt

import "context"

// Measurement is how large the file of a new image would be, in bytes.
type Measurement struct {
	// Required is what the disk needs as it is now, Full with every sector in use.
	Required, Full int64
}

// MeasureCOW measures a COW file of a disk of so many bytes that holds data bytes.
func MeasureCOW(size int64) Measurement {
	h := Header{Dialect: V3, Size: size, SectorSize: SectorSize, Alignment: newAlignment}
	l := h.Layout()
	return Measurement{Required: l.DataOffset, Full: l.DataOffset + size}
}

// qcow2 has 64-bit table entries and, unless told otherwise, 16-bit reference counts.
const (
	qcow2Entry    = 8
	qcow2Refcount = 2
)

// MeasureQcow2 measures a qcow2 image of a disk of so many bytes, with clusters of
// cluster bytes; data (nil for an empty disk) is asked where it has data.
func MeasureQcow2(ctx context.Context, size, cluster int64, data Device) (Measurement, error) {
	full := qcow2Full(size, cluster)
	m := Measurement{Required: full - roundUp(size, cluster), Full: full}
	if data == nil {
		return m, nil
	}
	done := int64(0) // up to there clusters are counted
	err := data.Extents(0, data.Size(), func(e Extent) bool {
		first, end := e.Offset/cluster*cluster, roundUp(e.Offset+e.Length, cluster)
		if first = max(first, done); e.File != nil && first < end {
			m.Required += end - first
			done = end
		}
		return ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	return m, err
}

// qcow2Full is the length of an image in which every cluster is in use: the header, the
// tables of both levels, reference counts of all clusters, those of the counts
// included, and the disk.
func qcow2Full(size, cluster int64) int64 {
	disk := roundUp(size, cluster)
	l2 := roundUp(disk/cluster, cluster/qcow2Entry) * qcow2Entry
	l1 := roundUp(l2/cluster, cluster/qcow2Entry) * qcow2Entry
	counted := (cluster + l2 + l1 + disk) / cluster
	var blocks, tables int64
	for {
		b := ceilDiv(counted+blocks+tables, cluster/qcow2Refcount)
		t := ceilDiv(b, cluster/qcow2Entry)
		if b == blocks && t == tables {
			return (counted + blocks + tables) * cluster
		}
		blocks, tables = b, t
	}
}
