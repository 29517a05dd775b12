package system

import (
	"fmt"
	"strings"
)

// Device resolves UUID=… and LABEL=… to the block device that carries them;
// any other source is itself.
func Device(source string) (string, error) {
	tag, value, ok := strings.Cut(source, "=")
	if !ok || tag != "UUID" && tag != "LABEL" {
		return source, nil
	}
	value = strings.Trim(value, `"`)
	devices, err := scanDevices()
	if err != nil {
		return "", err
	}
	for _, d := range devices {
		if tag == "UUID" && strings.EqualFold(d.uuid, value) || tag == "LABEL" && d.label == value {
			return d.path, nil
		}
	}
	return "", fmt.Errorf("%s: no block device carries it", source)
}
