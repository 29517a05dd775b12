package fstab

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader("# a comment\n\n/dev/ubda / ext4 discard,errors=remount-ro 0 1\nnone\t/a\\040b\\134c tmpfs\nLABEL=x /x auto noauto 0 0\n"))
	want := []Entry{
		{"/dev/ubda", "/", "ext4", "discard,errors=remount-ro"},
		{"none", `/a b\c`, "tmpfs", "defaults"},
		{"LABEL=x", "/x", "auto", "noauto"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Read(strings.NewReader("/dev/x / ext4\nbad line\n")); err == nil || err.Error() != `line 2: "bad line" has no file system type` {
		t.Errorf("error %v", err)
	}
}

func TestFlags(t *testing.T) {
	for options, want := range map[string]struct {
		bits uintptr
		data string
	}{
		"":                                {0, ""},
		"defaults,noauto,nofail,x-a.b":    {0, ""},
		"ro,nosuid,size=4m,mode=700":      {unix.MS_RDONLY | unix.MS_NOSUID, "size=4m,mode=700"},
		"ro,rw":                           {0, ""},
		"nodev,dev,noexec":                {unix.MS_NOEXEC, ""},
		"rbind,remount":                   {unix.MS_BIND | unix.MS_REC | unix.MS_REMOUNT, ""},
		"errors=remount-ro,,noatime,acl":  {unix.MS_NOATIME, "errors=remount-ro,acl"},
		"rslave":                          {unix.MS_SLAVE | unix.MS_REC, ""},
		"user,users,owner,_netdev,suid":   {0, ""},
		"discard,comment=something,async": {0, "discard"},
	} {
		if bits, data := Flags(options); bits != want.bits || data != want.data {
			t.Errorf("Flags(%q) = %#x, %q, want %#x, %q", options, bits, data, want.bits, want.data)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("/dev/ubda / ext4 rw 0 1\n")
	f.Add("a\\0 b\\777 c\\134 \\\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, _ := Read(strings.NewReader(text))
		for _, e := range entries {
			if e.Type == "" || e.Options == "" {
				t.Errorf("%q: %+v", text, e)
			}
			Flags(e.Options)
		}
	})
}
