// Package release names the kernel that umlkit is to its guests.
package release

// Name is what `uname -r` says in a guest, and the directory below /lib/modules that
// belongs to us. It is a 6.x number because C libraries compare it with the oldest
// kernel they run on.
const Name = "6.18.0-umlkit"
