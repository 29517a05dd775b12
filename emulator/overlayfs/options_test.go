package overlayfs

import (
	"reflect"
	"testing"
)

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		data string
		want *options // nil: refused
	}{
		{"lowerdir=/a:/b,upperdir=/u,workdir=/w", &options{upper: "/u", work: "/w", lowers: []string{"/a", "/b"}}},
		{`lowerdir=/a\:1:/b\,2\\,index=off,metacopy=off,redirect_dir=off,volatile,userxattr`, &options{lowers: []string{"/a:1", `/b,2\`}, userXattr: true}},
		{"lowerdir+=/a,lowerdir+=/b:c", &options{lowers: []string{"/a", "/b:c"}}},
		{"lowerdir=/a::/b", nil},
		{"lowerdir=/a,metacopy=on", nil},
		{"lowerdir=/a,redirect_dir=on", nil},
		{"lowerdir=/a,unheard", nil},
		{"lowerdir=/a,volatile=1", nil},
	} {
		got, err := parseOptions(c.data)
		if (err != nil) != (c.want == nil) || c.want != nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v, want %+v", c.data, got, err, c.want)
		}
	}
	for _, c := range []struct {
		dir, path string
		want      bool
	}{{"/a", "/a", true}, {"/a", "/a/b", true}, {"/a", "/ab", false}, {"/", "/x", true}} {
		if got := within(c.dir, c.path); got != c.want {
			t.Errorf("%s within %s: %v", c.path, c.dir, got)
		}
	}
}
