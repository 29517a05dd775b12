package main

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// showConfig is the text of --showconfig: what the program was built from, one
// NAME=VALUE a line.
func showConfig() string {
	var b strings.Builder
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	fmt.Fprintf(&b, "go=%s\nmodule=%s %s\n", info.GoVersion, info.Main.Path, info.Main.Version)
	for _, d := range info.Deps {
		if d.Path == "gvisor.dev/gvisor" {
			fmt.Fprintf(&b, "kernel=%s %s\n", d.Path, d.Version)
		}
	}
	for _, s := range info.Settings {
		fmt.Fprintf(&b, "%s=%s\n", s.Key, s.Value)
	}
	return b.String()
}
