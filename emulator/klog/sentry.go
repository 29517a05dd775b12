package klog

import (
	"fmt"
	"time"

	sentrylog "gvisor.dev/gvisor/pkg/log"
)

// Emitter takes what the Sentry says about itself. It becomes debug records: none of
// it is the guest's business, and dmesg shows it to those who ask for debug.
func (l *Log) Emitter() sentrylog.Emitter { return emitter{l} }

type emitter struct{ log *Log }

// Emit implements log.Emitter.Emit.
func (e emitter) Emit(depth int, level sentrylog.Level, timestamp time.Time, format string, args ...any) {
	e.log.add(facilityKernel, Debug, "sentry: "+fmt.Sprintf(format, args...))
}
