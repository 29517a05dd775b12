package main

import "testing"

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"512": 512, "1k": 1024, "16G": 16 << 30, "2T": 2 << 40, "3MiB": 3 << 20, "1024B": 1024} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "1.5G", "G", "16 G", "100", "99999999999999999999", "9999999T", "1GG", "0x10", "1P"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d bytes", text, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"", "16G", "1kib", "99999999999999999999T", "512b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil && (n <= 0 || n%512 != 0) {
			t.Errorf("%q is %d bytes", text, n)
		}
	})
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1024: "1K", 1280 << 10: "1.25M", 10<<30 + 100<<20: "10.1G", 16 << 30: "16G", 999 << 40: "999T", 1<<20 - 1: "1M", 1<<63 - 1: "8E"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d is %s, not %s", n, got, want)
		}
	}
}
