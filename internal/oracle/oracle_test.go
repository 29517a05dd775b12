package oracle

import (
	"os"
	"path/filepath"
	"testing"
)

// failure records what a testing.TB would have been told.
type failure struct {
	testing.TB
	failed bool
}

func (f *failure) Helper()               {}
func (f *failure) Fatalf(string, ...any) { f.failed = true; panic(f) }

func fails(t *testing.T, call func(testing.TB)) bool {
	f := &failure{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(f) {
				panic(r)
			}
		}()
		call(f)
	}()
	return f.failed
}

func TestMissingOracleFails(t *testing.T) {
	if !fails(t, func(tb testing.TB) { Tool(tb, "no-such-tool-of-debian") }) {
		t.Error("a missing tool did not fail the test")
	}
	t.Setenv("UMLKIT_SHARED", t.TempDir())
	if !fails(t, func(tb testing.TB) { Shared(tb, "samples/base.img.gz") }) {
		t.Error("a missing sample did not fail the test")
	}
}

func TestRootHoldsTheModule(t *testing.T) {
	if _, err := os.Stat(filepath.Join(Root(t), "go.mod")); err != nil {
		t.Fatal(err)
	}
}
