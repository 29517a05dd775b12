package debian

import (
	"strings"

	"github.com/umlkit/umlkit/rootfs/tree"
)

// ConfigureProgram is a program that Source leaves in the tree. Run inside the machine, as
// root, it finishes what was unpacked: the preinst scripts, then `dpkg --configure -a`.
// It takes itself away when all went well.
const ConfigureProgram = "/.umlkit-configure"

// configureScript is it. No package was configured before: base-passwd and base-files
// come first, for the others know users by their names. Services do not start.
const configureScript = `#!/bin/sh
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes LC_ALL=C.UTF-8
cd /
policy=/usr/sbin/policy-rc.d
printf '#!/bin/sh\nexit 101\n' >$policy
chmod 755 $policy
while read -r package version arch; do
	for script in "/var/lib/dpkg/info/$package.preinst" "/var/lib/dpkg/info/$package:$arch.preinst"; do
		[ -f "$script" ] || continue
		echo "Preparing $package ($version) ..."
		DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$package DPKG_MAINTSCRIPT_ARCH=$arch DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
			DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= "$script" install || { echo "preinst of $package failed: $?"; exit 1; }
	done
done <` + orderFile + `
for package in base-passwd base-files; do
	if [ -f /var/lib/dpkg/info/$package.list ]; then dpkg --force-depends --configure $package || exit; fi
done
dpkg --configure -a || exit
rm -f $policy ` + orderFile + ` ` + ConfigureProgram + `
`

// leaveConfigure puts the program and what it reads into the tree.
func leaveConfigure(t *tree.Tree, packages []*pkg) error {
	var order strings.Builder
	for _, p := range packages {
		order.WriteString(p.name + " " + p.text.field("Version") + " " + p.arch + "\n")
	}
	if err := t.WriteFile(orderFile, []byte(order.String()), 0o644); err != nil {
		return err
	}
	return t.WriteFile(ConfigureProgram, []byte(configureScript), 0o755)
}
