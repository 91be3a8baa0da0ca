# What make image builds: the static binary and the root certificates of public
# authorities, nothing else. The binary is built outside, so that this needs no
# other image.
#
# Proxy mode needs no privilege; --user, --read-only and --cap-drop ALL are fine:
#   docker run -e SOFTETHER_PASS softether-go -host … -user … -socks5 :1080 -proxy-user …
# TAP mode needs the device and one capability, and is root:
#   docker run -e SOFTETHER_PASS --cap-add NET_ADMIN --device /dev/net/tun softether-go -host … -user … -tap vpn0
FROM scratch
COPY bin/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY bin/softether-go /softether-go
ENTRYPOINT ["/softether-go"]
