package boot

import (
	"strings"
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

// libxcrypt asks crypt(3), through perl.
func libxcrypt(t *testing.T, password, form string) string {
	t.Helper()
	return oracle.Run(t, "perl", "-e", "print crypt($ARGV[0], $ARGV[1])", password, form)
}

func TestVerify(t *testing.T) {
	for _, form := range []string{
		"$6$saltsalt$", "$6$rounds=1000$abc$", "$6$rounds=5000$x$", "$6$0123456789abcdefXYZ$", "$5$saltsalt$", "$5$rounds=1234$q$", "$1$abcdefgh$", "$1$ab$",
		"$y$j9T$abcdefgh$", "$y$jA5$F5Jx5fExrKuPp53xLKQ..1$", "$6$$", "$1$$",
	} {
		for _, password := range []string{"secret", "", "pass word", "pässwörd", strings.Repeat("long", 40)} {
			hashed := libxcrypt(t, password, form)
			if !strings.HasPrefix(hashed, "$") {
				t.Fatalf("crypt(%q, %q) = %q", password, form, hashed)
			}
			if ok, err := verify(password, hashed); !ok || err != nil {
				t.Errorf("verify(%q, %q) = %v, %v", password, hashed, ok, err)
			}
			if ok, err := verify(password+"x", hashed); ok || err != nil {
				t.Errorf("verify of a wrong password against %q = %v, %v", hashed, ok, err)
			}
			if ok, _ := verify(password, hashed[:len(hashed)-1]); ok {
				t.Errorf("a hash that was cut is taken: %q", hashed)
			}
		}
	}
	for _, bad := range []string{"", "x", "*", "!", "!!", "$", "$6", "$6$", "$9$a$b", "$2b$05$abcdefghijklmnopqrstuu", "$6$rounds=999999999$a$b", "$6$rounds=x$a$b",
		"$y$", "$y$j9T$abc", "$y$jzzzz$abc$def", "$y$\xff$a$b", "abJnggxhB/yWI", "$6$rounds=5000$"} {
		if ok, err := verify("x", bad); ok || err == nil && bad != "$6$" {
			t.Errorf("verify against %q = %v, %v", bad, ok, err)
		}
	}
}

// What passwd stores, libxcrypt takes.
func TestStoredHash(t *testing.T) {
	h := sha512crypt("a new one")
	if got := libxcrypt(t, "a new one", h); got != h {
		t.Errorf("crypt of %q gives %q", h, got)
	}
	if h2 := sha512crypt("a new one"); h2 == h {
		t.Error("two hashes with one salt")
	}
}

func FuzzVerify(f *testing.F) {
	for _, s := range []string{"$6$a$b", "$y$j9T$abc$def", "$1$x$y", "$5$rounds=1000$a$b", "*", "$y$j$$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, hashed string) {
		// The cost of an honest hash is bounded; only the form is fuzzed here.
		if strings.HasPrefix(hashed, "$y$") && len(hashed) > 4 || strings.Contains(hashed, "rounds=") {
			hashed = strings.NewReplacer("$y$j", "$y$\x00", "rounds=", "rounds=x").Replace(hashed)
		}
		if ok, err := verify("secret", hashed); ok && err != nil {
			t.Errorf("%q: %v and %v", hashed, ok, err)
		}
	})
}
