package transport

import (
	"os"
	"strings"
)

// listed says whether a socket of this name is open on the host, as far as /proc/net/unix
// tells; a name that cannot be looked up is taken for open.
func listed(path string) bool {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+path) {
			return true
		}
	}
	return false
}
