//go:build !amd64

package platform

import (
	"errors"

	gvisor "gvisor.dev/gvisor/pkg/sentry/platform"
)

// New says that there is no such platform here.
func New() (gvisor.Platform, error) {
	return nil, errors.New("it runs on amd64 only")
}
