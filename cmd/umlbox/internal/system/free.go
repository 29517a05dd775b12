package system

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Free shows how memory is used.
func Free(e *applet.Env, args []string) error {
	unit := int64(1 << 10)
	human := false
	interval, count := 0, 0
	var o applet.Options
	o.Func('b', "bytes", func() { unit = 1 })
	o.Func('k', "kibi", func() { unit = 1 << 10 })
	o.Func('m', "mebi", func() { unit = 1 << 20 })
	o.Func('g', "gibi", func() { unit = 1 << 30 })
	o.Bool(&human, 'h', "human")
	o.Int(&interval, 's', "seconds")
	o.Int(&count, 'c', "count")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	show := func(n int64) string {
		if !human {
			return strconv.FormatInt(n/unit, 10)
		}
		v, suffixes := float64(n), "BKMGTP"
		i := 0
		for v >= 1024 && i < len(suffixes)-1 {
			v /= 1024
			i++
		}
		if i == 0 {
			return fmt.Sprintf("%.0fB", v)
		}
		if v < 10 {
			return fmt.Sprintf("%.1f%ci", v, suffixes[i])
		}
		return fmt.Sprintf("%.0f%ci", v, suffixes[i])
	}
	for i := 0; ; i++ {
		m, err := meminfo()
		if err != nil {
			return err
		}
		cache := m["Buffers"] + m["Cached"] + m["SReclaimable"]
		used := m["MemTotal"] - m["MemAvailable"]
		if m["MemAvailable"] == 0 {
			used = m["MemTotal"] - m["MemFree"] - cache
		}
		fmt.Fprintf(e.Stdout, "%15s %11s %11s %11s %11s %11s\n", "total", "used", "free", "shared", "buff/cache", "available")
		fmt.Fprintf(e.Stdout, "Mem:%11s %11s %11s %11s %11s %11s\n", show(m["MemTotal"]), show(used), show(m["MemFree"]),
			show(m["Shmem"]), show(cache), show(m["MemAvailable"]))
		fmt.Fprintf(e.Stdout, "Swap:%10s %11s %11s\n", show(m["SwapTotal"]), show(m["SwapTotal"]-m["SwapFree"]), show(m["SwapFree"]))
		if interval <= 0 && count <= i+1 || count > 0 && i+1 >= count {
			return nil
		}
		e.Stdout.WriteString("\n")
		e.Stdout.Flush()
		time.Sleep(time.Duration(max(interval, 1)) * time.Second)
	}
}

// meminfo reads /proc/meminfo, in bytes.
func meminfo() (map[string]int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	m := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			continue
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			continue
		}
		if len(f) > 1 && f[1] == "kB" {
			n *= 1024
		}
		m[name] = n
	}
	return m, nil
}

// Uptime shows how long the system runs and how busy it is.
func Uptime(e *applet.Env, args []string) error {
	var pretty, since bool
	var o applet.Options
	o.Bool(&pretty, 'p', "pretty")
	o.Bool(&since, 's', "since")
	if _, err := o.Parse(args); err != nil {
		return err
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return err
	}
	up := time.Duration(si.Uptime) * time.Second
	if since {
		e.Stdout.WriteString(time.Now().Add(-up).Format("2006-01-02 15:04:05") + "\n")
		return nil
	}
	days, hours, minutes := int(up.Hours())/24, int(up.Hours())%24, int(up.Minutes())%60
	if pretty {
		var parts []string
		for _, p := range []struct {
			n    int
			unit string
		}{{days, "day"}, {hours, "hour"}, {minutes, "minute"}} {
			if p.n == 1 {
				parts = append(parts, "1 "+p.unit)
			} else if p.n > 1 {
				parts = append(parts, fmt.Sprintf("%d %ss", p.n, p.unit))
			}
		}
		if parts == nil {
			parts = []string{"0 minutes"}
		}
		e.Stdout.WriteString("up " + strings.Join(parts, ", ") + "\n")
		return nil
	}
	text := ""
	if days == 1 {
		text = "1 day, "
	} else if days > 1 {
		text = fmt.Sprintf("%d days, ", days)
	}
	if hours > 0 {
		text += fmt.Sprintf("%2d:%02d", hours, minutes)
	} else {
		text += fmt.Sprintf("%d min", minutes)
	}
	load := func(i int) float64 { return float64(si.Loads[i]) / (1 << 16) }
	fmt.Fprintf(e.Stdout, " %s up %s,  load average: %.2f, %.2f, %.2f\n", time.Now().Format("15:04:05"), text, load(0), load(1), load(2))
	return nil
}
