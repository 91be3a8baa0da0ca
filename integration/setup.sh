#!/bin/sh
# Sets up what the tests want from the system: Debian packages and /dev/net/tun.
# Does nothing where nothing is missing. Where it may not or cannot help, it says
# in one line what would, and ends well: the tests then skip and say so too.
set -u

# PROGRAM PACKAGE, the only list of them. A program may also be any file, by its path.
wanted='
/usr/libexec/softether/vpnserver/vpnserver softether-vpnserver
/usr/libexec/softether/vpnclient/vpnclient softether-vpnclient
vpncmd softether-vpncmd
ip iproute2
ping iputils-ping
setpriv util-linux
dnsmasq dnsmasq-base
/usr/sbin/radvd radvd
dhcpd isc-dhcp-server
udhcpc udhcpc
curl curl
microsocks microsocks
nft nftables
dbus-daemon dbus-daemon
tinyproxy tinyproxy-bin
danted dante-server
ncat ncat
proxychains4 proxychains4
socksify dante-client
turnserver coturn
drill ldnsutils
systemd-socket-activate systemd
vsftpd vsftpd
tnftp tnftp
/usr/bin/python3 python3
/usr/lib/python3/dist-packages/socks.py python3-socks
/usr/lib/python3/dist-packages/websocket/__init__.py python3-websocket
/usr/sbin/freeradius freeradius
systemd-analyze systemd
strace strace
softhsm2-util softhsm2
/usr/sbin/sshd openssh-server
ssh openssh-client
git git
dig bind9-dnsutils
iperf3 iperf3
/usr/sbin/nginx nginx-light
htpasswd apache2-utils
node nodejs
chromium chromium
'

# Packages that tests unpack for themselves, as installing them takes over the
# machine's /etc/resolv.conf.
fetched='systemd-resolved libsystemd-shared resolvconf openresolv'
cache=/var/cache/softether-go

PATH=$PATH:/usr/sbin:/sbin
missing=$(echo "$wanted" | while read -r program package; do
	[ -z "$program" ] || command -v "$program" >/dev/null 2>&1 || [ -e "$program" ] || printf '%s ' "$package"
done)
lacking() {
	for package in $fetched; do
		set -- "$cache/$package"_*.deb
		[ -e "$1" ] || printf '%s ' "$package"
	done
}
unfetched=$(lacking)

if [ "$(id -u)" -ne 0 ]; then
	[ -z "$missing" ] || echo "setup: some tests will skip; as root: apt-get install --no-install-recommends $missing"
	[ -z "$unfetched" ] || echo "setup: some tests will skip; as root, in $cache: apt-get download $unfetched"
	exit 0
fi

if [ ! -e /dev/net/tun ]; then
	mkdir -p /dev/net
	mknod -m 600 /dev/net/tun c 10 200 2>/dev/null || echo "setup: some tests will skip; no TAP here: mknod /dev/net/tun c 10 200"
fi

[ -n "$missing$unfetched" ] || exit 0

# The services that come with the packages are not wanted, only their programs:
# policy-rc.d is what keeps Debian from starting them.
policy=/usr/sbin/policy-rc.d
install() {
	# The list is split into words on purpose.
	# shellcheck disable=SC2086
	[ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1
}
# fetch goes on where one is not to be had, as on another release.
fetch() {
	for package in $unfetched; do
		(rm -rf "$cache/half" && mkdir -p "$cache/half" && cd "$cache/half" &&
			apt-get download -qq "$package" >/dev/null 2>&1 && mv ./*.deb ..)
	done
	rm -rf "$cache/half"
	unfetched=$(lacking)
	[ -z "$unfetched" ]
}

if command -v apt-get >/dev/null 2>&1; then
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		trap 'rm -f "$policy"' EXIT
		trap 'exit 1' HUP INT TERM
	fi
	echo "setup: installing $missing$unfetched"
	{ install && fetch; } || { apt-get update -qq >/dev/null 2>&1 && install && fetch; } && exit 0
fi
echo "setup: some tests will skip; cannot install here: $missing$unfetched"
exit 0
