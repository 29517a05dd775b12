package uevent

import (
	"reflect"
	"strings"
	"testing"
)

func TestEncode(t *testing.T) {
	e := Event{Action: "add", Path: "/devices/x", Subsystem: "block", Env: []string{"MAJOR=98", "DEVNAME=ubda"}}
	want := "add@/devices/x\x00ACTION=add\x00DEVPATH=/devices/x\x00SUBSYSTEM=block\x00MAJOR=98\x00DEVNAME=ubda\x00SEQNUM=7\x00"
	if got := string(e.encode(7)); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestSynthetic(t *testing.T) {
	device := Event{Path: "/devices/x", Subsystem: "block", Env: []string{"MAJOR=98"}}
	const uuid = "fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed"
	for _, test := range []struct {
		text   string
		action string
		env    []string
	}{
		{"add\n", "add", []string{"MAJOR=98", "SYNTH_UUID=0"}},
		{"change", "change", []string{"MAJOR=98", "SYNTH_UUID=0"}},
		{"remove " + uuid + " A=1 B=abc\n", "remove", []string{"MAJOR=98", "SYNTH_ARG_A=1", "SYNTH_ARG_B=abc", "SYNTH_UUID=" + uuid}},
	} {
		got, ok := device.Synthetic(test.text)
		if !ok || got.Action != test.action || got.Path != device.Path || !reflect.DeepEqual(got.Env, test.env) {
			t.Errorf("%q: %v, %v", test.text, got, ok)
		}
	}
	for _, text := range []string{"", "\n", "bogus", "ADD", "add x", "add " + uuid[1:], "add " + uuid + " A", "add " + uuid + " A=", "add " + uuid + " A=b;c", "add " + strings.Repeat(" ", maxSynthetic)} {
		if got, ok := device.Synthetic(text); ok {
			t.Errorf("%q makes %v", text, got)
		}
	}
	if len(device.Env) != 1 {
		t.Errorf("the device's own variables became %q", device.Env)
	}
}
