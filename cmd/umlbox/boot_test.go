package main

import (
	"testing"

	"github.com/umlkit/umlkit/internal/oracle"
)

func needsRoot(t *testing.T) { oracle.NeedsRoot(t) }
