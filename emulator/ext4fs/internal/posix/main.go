// Command posix runs go-fuse's tests of what POSIX demands of a filesystem, in the
// directory $POSIX_DIR. Tests run it in a guest. Its flags are those of a test binary.
package main

import (
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

func main() {
	var tests []testing.InternalTest
	for name, f := range posixtest.All {
		tests = append(tests, testing.InternalTest{Name: name, F: func(t *testing.T) {
			dir := filepath.Join(os.Getenv("POSIX_DIR"), name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			f(t, dir)
		}})
	}
	sort.Slice(tests, func(i, k int) bool { return tests[i].Name < tests[k].Name })
	testing.Main(regexp.MatchString, tests, nil, nil)
}
