#!/bin/sh
# Sets up what the tests want from the system: Debian packages and /dev/net/tun.
# Does nothing where nothing is missing. Where it may not or cannot help, it says
# in one line what would, and ends well: the tests then skip and say so too.
set -u

# PROGRAM PACKAGE, the only list of them.
wanted='
/usr/libexec/softether/vpnserver/vpnserver softether-vpnserver
/usr/libexec/softether/vpnclient/vpnclient softether-vpnclient
vpncmd softether-vpncmd
ip iproute2
ping iputils-ping
setpriv util-linux
dnsmasq dnsmasq-base
dhcpd isc-dhcp-server
udhcpc udhcpc
curl curl
microsocks microsocks
nft nftables
dbus-daemon dbus-daemon
'

PATH=$PATH:/usr/sbin:/sbin
missing=$(echo "$wanted" | while read -r program package; do
	[ -z "$program" ] || command -v "$program" >/dev/null 2>&1 || printf '%s ' "$package"
done)

if [ "$(id -u)" -ne 0 ]; then
	[ -z "$missing" ] || echo "setup: some tests will skip; as root: apt-get install --no-install-recommends $missing"
	exit 0
fi

if [ ! -e /dev/net/tun ]; then
	mkdir -p /dev/net
	mknod -m 600 /dev/net/tun c 10 200 2>/dev/null || echo "setup: some tests will skip; no TAP here: mknod /dev/net/tun c 10 200"
fi

[ -n "$missing" ] || exit 0

# The services that come with the packages are not wanted, only their programs:
# policy-rc.d is what keeps Debian from starting them.
policy=/usr/sbin/policy-rc.d
install() {
	# The list is split into words on purpose.
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1
}

if command -v apt-get >/dev/null 2>&1; then
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		trap 'rm -f "$policy"' EXIT
		trap 'exit 1' HUP INT TERM
	fi
	echo "setup: installing $missing"
	install || { apt-get update -qq >/dev/null 2>&1 && install; } && exit 0
fi
echo "setup: some tests will skip; cannot install here: $missing"
exit 0
