package system

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Hwclock shows the real-time clock, and sets it from the system's or the
// system's from it.
func Hwclock(e *applet.Env, args []string) error {
	var toSystem, toClock, utc, local bool
	device := ""
	var o applet.Options
	o.Func('r', "show", func() {}) // what it does anyway
	o.Bool(&toSystem, 's', "hctosys")
	o.Bool(&toClock, 'w', "systohc")
	o.Bool(&utc, 'u', "utc")
	o.Bool(&local, 'l', "localtime")
	o.String(&device, 'f', "rtc")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	f, err := openClock(device)
	if err != nil {
		return err
	}
	defer f.Close()
	zone := time.UTC
	if local {
		zone = time.Local
	}
	if toClock {
		t := time.Now().In(zone)
		rtc := unix.RTCTime{Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()),
			Mday: int32(t.Day()), Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900}
		if err := unix.IoctlSetRTCTime(int(f.Fd()), &rtc); err != nil {
			return fmt.Errorf("%s: cannot set: %s", f.Name(), applet.Reason(err))
		}
		return nil
	}
	rtc, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("%s: cannot read: %s", f.Name(), applet.Reason(err))
	}
	t := time.Date(int(rtc.Year)+1900, time.Month(rtc.Mon+1), int(rtc.Mday), int(rtc.Hour), int(rtc.Min), int(rtc.Sec), 0, zone)
	if toSystem {
		return setTime(t)
	}
	fmt.Fprintln(e.Stdout, t.Local().Format("2006-01-02 15:04:05.000000-07:00"))
	return nil
}

func openClock(device string) (*os.File, error) {
	if device != "" {
		return os.Open(device)
	}
	for _, path := range []string{"/dev/rtc", "/dev/rtc0", "/dev/misc/rtc"} {
		f, err := os.Open(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, errors.New("this machine has no real-time clock")
}
