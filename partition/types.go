package partition

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// names are the types that have a name here.
var names = []struct {
	name string
	gpt  gpt.Type // "" where a GPT has none
	mbr  byte     // 0 where an MBR has none
	text string
}{
	{"linux", gpt.LinuxFilesystem, 0x83, "Linux filesystem"},
	{"swap", gpt.LinuxSwap, 0x82, "Linux swap"},
	{"lvm", gpt.LinuxLVM, 0x8e, "Linux LVM"},
	{"raid", gpt.LinuxRAID, 0xfd, "Linux RAID"},
	{"home", gpt.LinuxHome, 0, "Linux home"},
	{"root-x86-64", gpt.LinuxRootX86_64, 0, "Linux root (x86-64)"},
	{"root-arm64", gpt.LinuxRootArm64, 0, "Linux root (ARM-64)"},
	{"boot", gpt.LinuxExtendedBoot, 0, "Linux extended boot"},
	{"uefi", gpt.EFISystemPartition, 0xef, "EFI System"},
	{"bios", gpt.BIOSBoot, 0, "BIOS boot"},
	{"data", gpt.MicrosoftBasicData, 0x07, "Microsoft basic data"},
	{"fat", "", 0x0c, "W95 FAT32 (LBA)"},
	{"extended", "", 0x05, "Extended"},
}

var (
	guidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$`)
	byteForm = regexp.MustCompile(`^[0-9A-Fa-f]{1,2}$`)
)

// ParseType is the type, as a table of that kind has it, of a name that TypeNames gives,
// of a GUID or of two hexadecimal digits.
func ParseType(kind Kind, text string) (string, error) {
	for _, n := range names {
		switch {
		case n.name != text:
		case kind == GPT && n.gpt != "":
			return string(n.gpt), nil
		case kind == MBR && n.mbr != 0:
			return strconv.FormatUint(uint64(n.mbr), 16), nil
		}
	}
	if kind == GPT {
		if guidForm.MatchString(text) && strings.Trim(text, "0-") != "" {
			return strings.ToUpper(text), nil
		}
		return "", fmt.Errorf("%q is no type of a GPT: %s, or a GUID", text, strings.Join(TypeNames(kind), ", "))
	}
	if n, err := strconv.ParseUint(text, 16, 8); err == nil && byteForm.MatchString(text) && n != 0 && n != typeProtective {
		return strconv.FormatUint(n, 16), nil
	}
	return "", fmt.Errorf("%q is no type of an MBR: %s, or two hexadecimal digits", text, strings.Join(TypeNames(kind), ", "))
}

// TypeNames are the names that ParseType knows.
func TypeNames(kind Kind) (list []string) {
	for _, n := range names {
		if kind == GPT && n.gpt != "" || kind == MBR && n.mbr != 0 {
			list = append(list, n.name)
		}
	}
	return list
}

// TypeText says what a type is, in the words of fdisk; an unknown one is itself.
func (p Partition) TypeText() string {
	for _, n := range names {
		if p.Type == string(n.gpt) || n.mbr != 0 && p.Type == strconv.FormatUint(uint64(n.mbr), 16) {
			return n.text
		}
	}
	return p.Type
}
