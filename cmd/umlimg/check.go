package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/umlkit/umlkit/partition"
	"github.com/umlkit/umlkit/ubdfmt"
	"github.com/umlkit/umlkit/ubdfmt/qcow2"
)

// The exit statuses of check are qemu-img's.
const (
	checkFailed      = 1
	checkCorrupt     = 2
	checkLeaks       = 3
	checkUnsupported = 63
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "look for damage in an image and in the file system on it",
		Category:  "disks",
		ArgsUsage: "IMAGE[#N]",
		Description: `umlimg check disk.cow
umlimg check 'disk.img#1'
umlimg check -r disk.cow`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "repair", Aliases: []string{"r"}, Usage: "make good what can be made good without losing anything"},
			&cli.BoolFlag{Name: "no-fsck", Usage: "look at the image alone, not at the file system on it"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing, the exit status says it"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1)
			if err != nil {
				return err
			}
			return checkImage(c, args[0])
		},
	}
}

// checkResult is what --json prints, in qemu-img's names where it has them.
type checkResult struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
	// CheckErrors counts what kept the check from looking.
	CheckErrors int `json:"check-errors"`
	Corruptions int `json:"corruptions"`
	Leaks       int `json:"leaks"`
	// The same of what -r found and made good.
	CorruptionsFixed int `json:"corruptions-fixed,omitempty"`
	LeaksFixed       int `json:"leaks-fixed,omitempty"`
	// TotalBlocks and AllocatedBlocks are of 4096 bytes, or clusters of qcow2: the
	// disk's and those that the file holds; PartialBlocks a COW file holds in part.
	TotalBlocks     int64          `json:"total-clusters,omitempty"`
	AllocatedBlocks int64          `json:"allocated-clusters,omitempty"`
	PartialBlocks   int64          `json:"partial-clusters,omitempty"`
	EndOffset       int64          `json:"image-end-offset"` // bytes
	Problems        []checkProblem `json:"problems"`
	FileSystem      *fsckResult    `json:"file-system,omitempty"`
}

type checkProblem struct {
	Kind       string `json:"kind"` // "corrupt", "backing" or "leak"
	Text       string `json:"text"`
	Bytes      int64  `json:"bytes,omitempty"`
	Repairable bool   `json:"repairable"`
}

// checkBlock is the unit of the counts, in bytes.
const checkBlock = 4096

func checkImage(c *cli.Context, operand string) error {
	path, number := splitPartition(operand)
	could := func(err error) error {
		if c.Context.Err() != nil {
			return fmt.Errorf("check %s: %w", operand, c.Context.Err())
		}
		status := checkFailed
		if notRead(err) {
			status = checkUnsupported
		}
		return verdict{status, fmt.Errorf("check %s: %w", operand, ofImage(operand, err))}
	}
	info, err := os.Stat(path)
	if err != nil {
		return could(err)
	}
	result := checkResult{Filename: operand, Format: "raw", EndOffset: info.Size(), Problems: []checkProblem{}}
	dev, err := checkFile(c, path, &result)
	if err != nil {
		return could(err)
	}
	table := false
	if dev != nil {
		defer dev.Close()
		if dev, table, err = checkTable(dev, number, &result); err != nil {
			return could(err)
		}
	}
	if dev != nil {
		if !c.Bool("no-fsck") {
			if result.FileSystem, err = checkFileSystem(c, path, dev); err != nil {
				return could(err)
			}
		}
	}
	status := result.status()
	if fs := result.FileSystem; status == checkUnsupported && fs != nil {
		reason := strings.TrimPrefix(fs.Reason, "as ")
		if fs.Reason == noFsck {
			reason = fmt.Sprintf("e2fsck, which would check its %s file system, is not installed", fs.Type)
		}
		return verdict{status, fmt.Errorf("check %s: %s", operand, reason)}
	}
	switch {
	case status == checkUnsupported && number > 0:
		return verdict{status, fmt.Errorf("check %s: a partition without an ext2, ext3 or ext4 file system has nothing to check", operand)}
	case status == checkUnsupported && table:
		return verdict{status, fmt.Errorf("check %s: it holds a partition table: name a partition, as %s#1", path, path)}
	case status == checkUnsupported:
		return verdict{status, fmt.Errorf("check %s: a raw image without an ext2, ext3 or ext4 file system has nothing to check", path)}
	}
	if err := printCheck(c, result); err != nil {
		return could(err)
	}
	if status != 0 {
		return verdict{status: status}
	}
	return nil
}

// notRead tells whether an error says that an image is of a format that is not read.
func notRead(err error) bool {
	var dialect *ubdfmt.DialectError
	var feature *qcow2.UnsupportedError
	var cow *ubdfmt.HeaderError
	var qcow *qcow2.FormatError
	return errors.As(err, &dialect) || errors.As(err, &feature) ||
		errors.As(err, &cow) && cow.Field == "version" || errors.As(err, &qcow) && qcow.Field == "version"
}

// checkFile checks, and repairs, what makes a COW file one. It returns the disk if that can
// be looked at, else nil.
func checkFile(c *cli.Context, path string, result *checkResult) (ubdfmt.Device, error) {
	f, err := openLook(path)
	if err != nil {
		return nil, err
	}
	isCOW, err := beginsAsCOW(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	if !isCOW {
		return checkDevice(c, path, result)
	}
	result.Format = "cow"
	report, cow, err := ubdfmt.CheckDisk(path, ubdfmt.CheckOptions{})
	if err != nil {
		return nil, err
	}
	if c.Bool("repair") && len(report.Problems) > 0 {
		before := report
		if cow != nil {
			cow.Close()
		}
		if report, err = ubdfmt.Repair(path, ubdfmt.CheckOptions{}); err != nil {
			return nil, err
		}
		if report, cow, err = ubdfmt.CheckDisk(path, ubdfmt.CheckOptions{}); err != nil {
			return nil, err
		}
		corrupt, leaks := countProblems(before)
		corruptLeft, leaksLeft := countProblems(report)
		result.CorruptionsFixed, result.LeaksFixed = corrupt-corruptLeft, leaks-leaksLeft
	}
	result.Corruptions, result.Leaks = countProblems(report)
	result.EndOffset = report.FileSize
	result.TotalBlocks = (report.Header.Size + checkBlock - 1) / checkBlock
	result.AllocatedBlocks = (report.Held + checkBlock - 1) / checkBlock
	result.PartialBlocks = report.Partial
	for _, p := range report.Problems {
		kind := map[ubdfmt.ProblemKind]string{ubdfmt.Corrupt: "corrupt", ubdfmt.Unmatched: "backing", ubdfmt.Leak: "leak"}[p.Kind]
		text := strings.TrimPrefix(oneLine(p.Err), path+": ")
		result.Problems = append(result.Problems, checkProblem{kind, text, p.Bytes, p.Repairable})
	}
	if cow == nil {
		return nil, nil
	}
	return cow, nil
}

// checkDevice looks at a raw image, which has nothing that could be wrong but that somebody
// changes it, and at a qcow2 image, whose tables it follows.
func checkDevice(c *cli.Context, path string, result *checkResult) (dev ubdfmt.Device, err error) {
	corrupt := func(err error) {
		result.Corruptions++
		result.Problems = append(result.Problems, checkProblem{Kind: "corrupt", Text: strings.TrimPrefix(oneLine(err), path+": ")})
	}
	is, err := qcow2.Probe(path)
	if err != nil {
		return nil, err
	}
	if is {
		result.Format = "qcow2"
	}
	dev, err = openImage(path, ubdfmt.Options{ReadOnly: true})
	var format *qcow2.FormatError
	if errors.As(err, &format) && !notRead(err) {
		corrupt(err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	im, ok := dev.(*qcow2.Image)
	if !ok {
		return dev, nil
	}
	defer func() {
		if dev == nil {
			im.Close()
		}
	}()
	if c.Bool("repair") {
		return nil, errors.New("a qcow2 image is only read: qemu-img check repairs it")
	}
	var held int64
	err = im.Extents(0, im.Size(), func(e ubdfmt.Extent) bool {
		if e.File != nil && e.Depth == 0 {
			held += e.Length
		}
		return c.Context.Err() == nil
	})
	cluster := im.Header().ClusterSize
	result.TotalBlocks, result.AllocatedBlocks = (im.Size()+cluster-1)/cluster, (held+cluster-1)/cluster
	switch {
	case c.Context.Err() != nil:
		return nil, c.Context.Err()
	case errors.As(err, &format):
		corrupt(err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return im, nil
}

// checkTable looks at the partition table of a disk, and gives the partition with a number,
// or the disk for 0. It is nil where a damaged table hides it. It tells whether there is a
// table: the boot sector before a file system can look like one.
func checkTable(dev ubdfmt.Device, number int, result *checkResult) (ubdfmt.Device, bool, error) {
	if number == 0 {
		if super, err := readSuper(dev); err != nil || super != nil {
			return dev, false, err
		}
	}
	corrupt := func(text string) {
		result.Corruptions++
		result.Problems = append(result.Problems, checkProblem{Kind: "corrupt", Text: text})
	}
	t, err := partition.Read(dev)
	var bad *partition.Error
	switch {
	case errors.Is(err, partition.ErrNone) && number == 0:
		return dev, false, nil
	case errors.As(err, &bad):
		corrupt("partition table: " + oneLine(err))
		return nil, true, nil
	case err != nil:
		return nil, false, err
	case t.Backup:
		corrupt("partition table: the one at the front is damaged, the backup at the end is not")
	}
	if number == 0 {
		return dev, true, nil
	}
	part, err := partition.Open(dev, number)
	if err != nil {
		return nil, true, err
	}
	return part, true, nil
}

// countProblems counts what is wrong, and what is only wasted. A backing file that does not match
// makes the disk unusable: it is wrong.
func countProblems(r ubdfmt.Report) (corrupt, leaks int) {
	for _, p := range r.Problems {
		if p.Kind == ubdfmt.Leak {
			leaks++
		} else {
			corrupt++
		}
	}
	return corrupt, leaks
}

// status is the exit status.
func (r checkResult) status() int {
	fs := r.FileSystem
	switch {
	case r.Corruptions > 0, fs != nil && fs.Ran && !fs.Clean:
		return checkCorrupt
	case r.Leaks > 0:
		return checkLeaks
	case r.Format == "raw" && (fs == nil || !fs.Ran):
		return checkUnsupported
	}
	return 0
}

func printCheck(c *cli.Context, r checkResult) error {
	if c.Bool("json") {
		return printJSON(c, r)
	}
	if c.Bool("quiet") {
		return nil
	}
	var b strings.Builder
	if n := r.CorruptionsFixed + r.LeaksFixed; n > 0 {
		fmt.Fprintf(&b, "%d problems were made good.\n", n)
	}
	for _, p := range r.Problems {
		hint := ""
		if p.Repairable {
			hint = " (-r makes it good)"
		}
		fmt.Fprintf(&b, "%s: %s%s\n", p.Kind, p.Text, hint)
	}
	if fs := r.FileSystem; fs != nil {
		for _, line := range fs.Messages {
			fmt.Fprintf(&b, "%s: %s\n", fs.Type, line)
		}
	}
	switch {
	case r.status() == 0:
		b.WriteString("No errors were found on the image.\n")
	case r.status() == checkLeaks:
		fmt.Fprintf(&b, "%d leaks were found on the image: they take room, and do no harm.\n", r.Leaks)
	default:
		b.WriteString("Errors were found on the image.\n")
	}
	if r.TotalBlocks > 0 {
		fmt.Fprintf(&b, "%d/%d = %.2f%% allocated\n", r.AllocatedBlocks, r.TotalBlocks, 100*float64(r.AllocatedBlocks)/float64(r.TotalBlocks))
	}
	if r.PartialBlocks > 0 {
		fmt.Fprintf(&b, "%d blocks of %d bytes are held in part: kernels misread what follows them\n", r.PartialBlocks, checkBlock)
	}
	switch fs := r.FileSystem; {
	case fs == nil:
	case !fs.Ran:
		fmt.Fprintf(&b, "%s file system: not checked, %s\n", fs.Type, fs.Reason)
	case fs.Clean:
		fmt.Fprintf(&b, "%s file system: clean, says %s\n", fs.Type, fs.Checker)
	default:
		fmt.Fprintf(&b, "%s file system: damaged, says %s\n", fs.Type, fs.Checker)
	}
	_, err := io.WriteString(c.App.Writer, b.String())
	return err
}
