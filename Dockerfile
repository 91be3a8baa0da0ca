# What make image builds: the static binary and the root certificates of public
# authorities, nothing else. The binary is built outside, so that this needs no
# other image.
#
# Proxy mode needs no privilege; --read-only and --cap-drop ALL are fine:
#   docker run -e SOFTETHER_PASS softether-go -host … -user … -socks5 :1080 -proxy-user …
# TAP mode needs the device and one capability, and is root:
#   docker run -e SOFTETHER_PASS --user 0 --cap-add NET_ADMIN --device /dev/net/tun softether-go -host … -user … -tap vpn0
# Examples for Compose and Kubernetes are in cmd/softether-go/deploy.
FROM scratch
COPY bin/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY bin/softether-go /softether-go
USER 65534:65534
# A name in the container's network, for the health check and nobody beyond; no file.
ENV SOFTETHER_HEALTH=unix:@softether-go
HEALTHCHECK --interval=5s --timeout=5s --start-period=1m CMD ["/softether-go", "health"]
ENTRYPOINT ["/softether-go"]
