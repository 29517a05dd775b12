package hostfs

import "testing"

func TestOptions(t *testing.T) {
	for data, want := range map[string]string{
		"": "/", "/dir": "/dir", "defaults,rw": "/", "hostfs=/a/b": "/a/b", "hostfs=a": "/a", "/a/../..": "/", "hostfs=../..": "/",
		"uid=5": "/,uid=5", "gid=0,/x": "/x,gid=0", "remember": "/,uid=0,gid=0,remember", "remember,uid=7": "/,uid=7,gid=0,remember",
		"uid=4294967294": "/,uid=4294967294", "/a,/b": "/b",
	} {
		o, err := parseOptions(data)
		if err != nil || o.String() != want {
			t.Errorf("%q is %q, %v; want %q", data, o.String(), err, want)
		}
	}
	for _, data := range []string{"nonsense", "uid=", "uid=-1", "uid=4294967295", "uid=0x1", "gid=a", "remember=1", "dir", "../x"} {
		if o, err := parseOptions(data); err == nil {
			t.Errorf("%q is taken for %q", data, o.String())
		}
	}
}

func FuzzOptions(f *testing.F) {
	for _, s := range []string{"", "/dir,uid=5,gid=6,remember,ro", "hostfs=../..", "uid=,gid", "/a,,/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data string) {
		o, err := parseOptions(data)
		if err != nil {
			return
		}
		if o.dir == "" || o.dir[0] != '/' {
			t.Fatalf("%q names the directory %q", data, o.dir)
		}
		again, err := parseOptions(o.String())
		if err != nil || again.String() != o.String() {
			t.Fatalf("%q is %q, read again %q, %v", data, o.String(), again.String(), err)
		}
	})
}

func TestOwnerForms(t *testing.T) {
	for value, want := range map[string]owner{
		"0 42 100640":        {uid: 0, gid: 42, mode: 0o100640},
		"1 2 20666 1 3":      {uid: 1, gid: 2, mode: 0o20666, major: 1, minor: 3},
		"4294967294 0 40755": {uid: maxID, mode: 0o40755},
	} {
		if o, err := parseOwner(value); err != nil || o != want || o.String() != value {
			t.Errorf("%q is %+v, %v", value, o, err)
		}
	}
	for _, value := range []string{"", "0 0", "0 0 644", "0 0 100644 1 3", "0 0 20666", "-1 0 100644", "0 4294967295 100644", "0 0 1000000", "0 0 100648",
		"0 0 20666 4096 0", "0 0 20666 0 1048576", "0 0 100644 ", " 0 0 100644", "0 0 100644\n"} {
		if o, err := parseOwner(value); err == nil {
			t.Errorf("%q is taken for %+v", value, o)
		}
	}
}

func FuzzOwner(f *testing.F) {
	for _, s := range []string{"0 0 100644", "1 2 20666 1 3", "a b c", "0 0 140000", "4294967295 0 40755"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		o, err := parseOwner(value)
		if err != nil {
			return
		}
		if again, err := parseOwner(o.String()); err != nil || again != o || len(o.String()) > maxOwner {
			t.Fatalf("%q is %+v, read again %+v, %v", value, o, again, err)
		}
	})
}

func TestPlain(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00b", "/.."} {
		if plain(name) {
			t.Errorf("%q may be given to the host", name)
		}
	}
	for _, name := range []string{"a", "...", ".a", "a b"} {
		if !plain(name) {
			t.Errorf("%q may not be given to the host", name)
		}
	}
}
