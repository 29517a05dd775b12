package ext4fs

var oldModeArgs map[uintptr]int
